"""The models compared, each with its own library's defaults, fitted to the same rows.

zuko's and nflows' flows share one loop: Adam, the learning rate of their tutorials, and the batch size, most epochs,
patience and best-weights rule of ``flowmodel.fit``. FlowJAX is fitted by its own ``fit_to_data`` under the same limits.
They get standardised rows in float32, and what standardisation does to the density is taken off again.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowmodel.training import fit
from flowmodel.training.recipe import default_flow
from flowmodel.training.trainer import LOWERINGS
from quality.tables import Array, Split

_FIT = inspect.signature(fit).parameters
MAX_EPOCHS: int = _FIT["max_epochs"].default
PATIENCE: int = _FIT["patience"].default * (1 + LOWERINGS)
"""Epochs without a better validation until the end; ``flowmodel.fit`` waits once more after lowering its rate."""

TORCH_LEARNING_RATE = 1e-3
"""Of Adam, in zuko's tutorials and in nflows' README (there by leaving Adam's own default)."""


def flowmodel(rows: Split, seed: int) -> Array:
    flow = default_flow(rows.train.shape[1], seed=seed)
    fit(flow, rows.train, validation=rows.validation, seed=seed)
    with torch.no_grad():
        return flow.log_prob(torch.from_numpy(rows.test)).double().numpy()


def zuko_maf(rows: Split, seed: int) -> Array:
    from zuko.flows import MAF

    def build(size: int) -> tuple[torch.nn.Module, Callable[[Tensor], Tensor]]:
        flow = MAF(size)
        return flow, lambda batch: flow().log_prob(batch)

    return _standardised(rows, lambda *parts: _fit_torch(build, seed, *parts))


def zuko_nsf(rows: Split, seed: int) -> Array:
    from zuko.flows import NSF

    def build(size: int) -> tuple[torch.nn.Module, Callable[[Tensor], Tensor]]:
        flow = NSF(size)
        return flow, lambda batch: flow().log_prob(batch)

    return _standardised(rows, lambda *parts: _fit_torch(build, seed, *parts))


def nflows_maf(rows: Split, seed: int) -> Array:
    from nflows.flows import MaskedAutoregressiveFlow

    def build(size: int) -> tuple[torch.nn.Module, Callable[[Tensor], Tensor]]:
        # Sizes have no default there: the paper's five layers, and zuko's width.
        flow = MaskedAutoregressiveFlow(size, hidden_features=64, num_layers=5, num_blocks_per_layer=2)
        return flow, flow.log_prob

    return _standardised(rows, lambda *parts: _fit_torch(build, seed, *parts))


def flowjax_maf(rows: Split, seed: int) -> Array:
    return _standardised(rows, lambda *parts: _fit_flowjax(seed, *parts))


MODELS: dict[str, Callable[[Split, int], Array]] = {
    "flowmodel": flowmodel,
    "zuko MAF": zuko_maf,
    "zuko NSF": zuko_nsf,
    "nflows MAF": nflows_maf,
    "FlowJAX MAF": flowjax_maf,
}
"""Each takes one split and a seed, and gives the log-densities of the test rows in data units."""


def batch_size(train_rows: int) -> int:
    """The rows per step that ``flowmodel.fit`` takes by default."""
    return min(max(64, train_rows // 12), 512)


def _standardised(rows: Split, log_prob: Callable[[Array, Array, Array], Array]) -> Array:
    mean, deviation = rows.train.mean(0), rows.train.std(0)
    parts = [((part - mean) / deviation).astype(np.float32) for part in (rows.train, rows.validation, rows.test)]
    return log_prob(*parts) - np.log(deviation).sum()


def _fit_torch(
    build: Callable[[int], tuple[torch.nn.Module, Callable[[Tensor], Tensor]]],
    seed: int,
    train: Array,
    validation: Array,
    test: Array,
) -> Array:
    torch.manual_seed(seed)
    rows, held_out = torch.from_numpy(train), torch.from_numpy(validation)
    module, log_prob = build(rows.shape[1])
    adam = torch.optim.Adam(module.parameters(), lr=TORCH_LEARNING_RATE)
    best, best_weights, waited = math.inf, copy.deepcopy(module.state_dict()), 0
    for _ in range(MAX_EPOCHS):
        module.train()
        for batch in torch.randperm(len(rows)).split(batch_size(len(rows))):
            adam.zero_grad()
            (-log_prob(rows[batch]).mean()).backward()
            adam.step()
        module.eval()
        with torch.no_grad():
            nll = -log_prob(held_out).mean().item()
        waited += 1
        if nll < best:
            best, best_weights, waited = nll, copy.deepcopy(module.state_dict()), 0
        if waited == PATIENCE:
            break
    module.load_state_dict(best_weights)
    module.eval()
    with torch.no_grad():
        return log_prob(torch.from_numpy(test)).double().numpy()


def _fit_flowjax(seed: int, train: Array, validation: Array, test: Array) -> Array:
    import jax
    from flowjax.distributions import Normal
    from flowjax.flows import masked_autoregressive_flow
    from flowjax.train import fit_to_data

    flow_key, fit_key = jax.random.split(jax.random.key(seed))
    flow: Any = masked_autoregressive_flow(flow_key, base_dist=Normal(jax.numpy.zeros(train.shape[1])))
    # It draws its own validation rows, the same number of them.
    flow, _ = fit_to_data(
        fit_key,
        flow,
        np.concatenate([train, validation]),
        max_epochs=MAX_EPOCHS,
        max_patience=PATIENCE,
        batch_size=batch_size(len(train)),
        val_prop=len(validation) / (len(train) + len(validation)),
        show_progress=False,
    )
    return np.asarray(flow.log_prob(test), dtype=np.float64)
