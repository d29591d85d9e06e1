"""The flow that is measured: its weights, its dense pass, its exports, and a reference in float64.

The scale is the exponential, as in FlowTorch and Pyro, so that these two compute the very same function. The reference
shares no code with the library: dense passes in float64 over the folded weights, the inverse by Jacobi's iteration from
the noise that the rows were made of, until it stands still.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params
from flowmodel.artefact.scorer import export_scorer
from flowmodel.bijectors.permute import PermuteBijector
from flowmodel.kernel.native_flow import NativeFlow, NotCoveredError
from flowmodel.parameters.dense_autoregressive import MADE
from flowmodel.runtime.scoring import Scorer

_HALF_LOG_TWO_PI = 0.9189385332046727


def normal(dims: int, dtype: torch.dtype = torch.float32) -> torch.distributions.Distribution:
    zeros = torch.zeros(dims, dtype=dtype)
    return torch.distributions.Independent(torch.distributions.Normal(zeros, torch.ones_like(zeros)), 1)


def standard_normal_log_prob(x: Tensor) -> Tensor:
    return -0.5 * (x * x).sum(-1) - x.shape[-1] * _HALF_LOG_TWO_PI


@dataclasses.dataclass(frozen=True)
class Network:
    """One MADE: its weights with the masks multiplied in, biases and masks, float32."""

    weights: list[Tensor]
    biases: list[Tensor]
    masks: list[Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        """Rows ``[B, D]`` to the outputs ``[B, 2 D]``, mu and log sigma of each dimension in turn."""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = torch.relu(linear(x, weight, bias))
        return linear(x, self.weights[-1], self.biases[-1])

    def affine(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mu and log sigma, each ``[B, D]``."""
        outputs = self(x).view(len(x), -1, 2)
        return outputs[..., 0], outputs[..., 1]

    def double(self) -> Network:
        """The same in float64."""
        return Network([w.double() for w in self.weights], [b.double() for b in self.biases], self.masks)


class Subject:
    """Affine autoregressive layers of two hidden layers each, permutations in between, over a standard normal base.

    Args:
        dims: D.
        hidden: H, the width of both hidden layers.
        layers: of the flow.
        threads: that its scorer may compute a call with.
    """

    def __init__(self, dims: int, hidden: int, layers: int = 1, threads: int = 1) -> None:
        torch.manual_seed(0)
        self.dims, self.hidden, self.layers, self.threads = dims, hidden, layers, threads
        self.plan = plan(hidden, layers)
        self.flow = dist.Flow(normal(dims), self.plan)
        with torch.no_grad():
            for parameter in self.flow.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
        # From noise to data: a network, or a permutation of the columns.
        self.chain: list[Network | Tensor] = []
        for module in self.flow.bijector.modules():
            if isinstance(module, MADE):
                biases = [bias.detach() for bias in module.biases]
                self.chain.append(Network([w.detach() for w in module.folded_weights()], biases, module.masks()))
            elif isinstance(module, PermuteBijector):
                self.chain.append(module.permutation)

    @property
    def network(self) -> Network:
        """The first layer's."""
        (network, *_) = (part for part in self.chain if isinstance(part, Network))
        return network

    def useful_operations(self) -> int:
        """Multiplications and additions for each row that the masks leave, in either direction."""
        networks = [part for part in self.chain if isinstance(part, Network)]
        return 2 * sum(int(mask.sum()) for network in networks for mask in network.masks)

    def dense_pass(self, rows: Tensor) -> Tensor:
        """Every layer's network once over the rows; nothing else of the layer is counted."""
        for part in self.chain:
            if isinstance(part, Network):
                outputs = part(rows)
        return outputs

    def jacobi(self, rows: Tensor) -> Tensor:
        """Log-density of a single layer's rows by Jacobi's iteration, float32, until it stands still.

        Song, Meng, Liao and Ermon, "Accelerating feedforward computation via parallel nonlinear equation solving", ICML
        2021: dense passes, all dimensions at once, which are exact after D and often stand still before.
        """
        x = torch.zeros_like(rows)
        for _ in range(self.dims):
            mu, log_sigma = self.network.affine(x)
            before, x = x, (rows - mu) * torch.exp(-log_sigma)
            if torch.allclose(x, before, rtol=1e-6, atol=1e-6):
                break
        return standard_normal_log_prob(x) - log_sigma.sum(1)

    def inverted(self) -> dist.Flow:
        """The same weights, the other way round."""
        flow = dist.Flow(normal(self.dims), bij.Invert(self.plan))
        with torch.no_grad():
            for own, its in zip(flow.bijector.parameters(), self.flow.bijector.parameters(), strict=True):
                own.copy_(its)
            for own, its in zip(flow.bijector.buffers(), self.flow.bijector.buffers(), strict=True):
                own.copy_(its)
        return flow

    def exported(self, flow: dist.Flow | None = None) -> Exported:
        """The flow, or another one, as it is served."""
        with tempfile.TemporaryDirectory() as folder:
            path = export_scorer(flow or self.flow, Path(folder, "scorer.pt"))
            return Exported(path, self.threads)

    def rows(self, count: int) -> tuple[Tensor, Tensor]:
        """Noise in float64 and the rows that it becomes, rounded to float32: ``[count, D]`` each."""
        noise = torch.randn(count, self.dims, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            return noise, torch.cat([self.push(part)[-1] for part in noise.split(4096)]).float()

    def push(self, noise: Tensor) -> list[Tensor]:
        """Noise through the chain, in float64: what goes in, and what comes out of each part."""
        values = [noise.double()]
        for part in self.chain:
            x = values[-1]
            if isinstance(part, Network):
                mu, log_sigma = part.double().affine(x)
                values.append(mu + torch.exp(log_sigma) * x)
            else:
                values.append(x[:, part])
        return values

    @torch.no_grad()
    def reference(self, rows: Tensor, noise: Tensor) -> Tensor:
        """Log-density of ``rows[B, D]`` in float64; ``noise`` is what they were made of, before they were rounded.

        Raises:
            RuntimeError: the iteration does not come to rest, which would mean that the flow is too steep for it.
        """
        guesses = self.push(noise)
        y, log_prob = rows.double(), torch.zeros(len(rows), dtype=torch.float64)
        for part, guess in zip(reversed(self.chain), reversed(guesses[:-1]), strict=True):
            if isinstance(part, Network):
                y, log_sigma = _solve(part.double(), y, guess)
                log_prob -= log_sigma.sum(1)
            else:
                y = y[:, torch.argsort(part)]
        return log_prob + standard_normal_log_prob(y)

    def reference_gradient(self, rows: Tensor) -> list[Tensor]:
        """Of the mean negative log-density by the weights and biases: float64 autograd through D dense passes."""
        network = self.network.double()
        weights = [weight.clone().requires_grad_() for weight in network.weights]
        biases = [bias.clone().requires_grad_() for bias in network.biases]
        masked = [weight * mask for weight, mask in zip(weights, network.masks, strict=True)]
        y, columns = rows.double(), []
        for t in range(self.dims):
            known = torch.stack([*columns, *([torch.zeros_like(y[:, 0])] * (self.dims - t))], 1)
            mu, log_sigma = Network(masked, biases, network.masks).affine(known)
            columns.append((y[:, t] - mu[:, t]) * torch.exp(-log_sigma[:, t]))
        loss = -(standard_normal_log_prob(torch.stack(columns, 1)) - log_sigma.sum(1)).mean()
        return list(torch.autograd.grad(loss, [*weights, *biases]))


class Exported:
    """A flow as it is served: the scorer, the native code by itself where it covers the flow, and bare TorchScript."""

    def __init__(self, path: Path, threads: int) -> None:
        self.scorer = Scorer.load(path, threads=threads)
        self.script: Any = torch.jit.load(str(path))
        self._threads = threads
        try:
            self.native: NativeFlow | None = NativeFlow(self.script)
        except NotCoveredError:
            self.native = None

    @property
    def answered_by(self) -> str:
        """``torchscript``, or the instruction set of the native code."""
        return self.scorer.answered_by

    def sample(self, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Noise ``[N, D]`` to rows and their log-density, as the scorer does it for noise of its own."""
        if self.native:
            return self.native.sample(noise, threads=self._threads)
        with torch.inference_mode():
            rows, log_prob = self.script.sample(torch.from_numpy(noise))
        return rows.numpy(), log_prob.numpy()


def plan(hidden: int, layers: int = 1) -> bij.BijectorPlan:
    layer = bij.AffineAutoregressive(params.DenseAutoregressive((hidden, hidden)), scale_fn="exp")
    if layers == 1:
        return layer
    return bij.Compose([part for _ in range(layers - 1) for part in (layer, bij.Permute())] + [layer])


def _solve(network: Network, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The x of y, and log sigma there. What step t finds for the first t dimensions is final, so D steps are enough."""
    for _ in range(y.shape[1] + 1):
        mu, log_sigma = network.affine(x)
        before, x = x, (y - mu) * torch.exp(-log_sigma)
        if float((x - before).abs().max()) <= 1e-12 * max(1.0, float(x.abs().max())):
            return x, log_sigma
    raise RuntimeError(f"the reference moved by {float((x - before).abs().max()):.1e} after {y.shape[1] + 1} steps")
