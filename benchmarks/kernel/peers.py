"""The same layer in other libraries.

Each gives two directions: one pass of its network, and its own loop of D passes. Both end with the log-determinant and
the log-density of the standard normal base, so that each stands for a density and for a sample with its density. Who is
asked for a density pays for one or the other by how the flow was trained, and so we compare with both.

All get our network's weights and masks. FlowTorch and Pyro then compute the very same function, which is checked; zuko,
nflows and FlowJAX make a scale of the same outputs by their own formula; normflows has one activation less.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kernel.stopwatch import Call
from kernel.subject import Network, Subject, normal, standard_normal_log_prob

Direction = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Values ``[B, D]`` to values and the log-determinant ``[B]``."""

DISTRIBUTIONS = {
    "FlowTorch": "flowtorch",
    "zuko": "zuko",
    "nflows": "nflows",
    "Pyro": "pyro-ppl",
    "normflows": "normflows",
    "FlowJAX": "flowjax",
}
"""What a peer is called, and the package that it comes in."""

_AGREEMENT = 1e-3
"""Nats: float32 rounding at the sizes measured stays far below."""


class Directions(NamedTuple):
    """One pass, and D passes, each from values to values and log-densities."""

    single_pass: Call
    d_passes: Call


def installed() -> list[str]:
    return [name for name in DISTRIBUTIONS if importlib.util.find_spec(name.lower()) is not None]


def versions(names: list[str]) -> dict[str, str]:
    packages = [DISTRIBUTIONS[name] for name in names] + ["jax"] * ("FlowJAX" in names)
    return {package: metadata.version(package) for package in packages}


def directions(name: str, subject: Subject, rows: Tensor) -> Directions:
    """The calls of one peer on these rows.

    Raises:
        RuntimeError: a peer that has our very function gives another answer.
    """
    if name == "FlowJAX":
        return _flowjax(subject.network, rows)
    single_pass, d_passes = TORCH_PEERS[name](subject.network)

    def evaluate(direction: Direction, to_noise: bool) -> Call:
        def run() -> Tensor:
            with torch.no_grad():
                # A new view each time: Pyro and FlowTorch answer from a cache when they get the same tensor back.
                values, log_det = direction(rows.view(rows.shape))
                noise = values if to_noise else rows
                return standard_normal_log_prob(noise) + (log_det if to_noise else -log_det)

        return run

    result = Directions(evaluate(single_pass, False), evaluate(d_passes, True))
    if name in ("FlowTorch", "Pyro"):
        _check(name, subject, d_passes)
    return result


def _check(name: str, subject: Subject, d_passes: Direction) -> None:
    noise, rows = subject.rows(8)
    with torch.no_grad():
        values, log_det = d_passes(rows)
    apart = float((standard_normal_log_prob(values) + log_det - subject.reference(rows, noise)).abs().max())
    if not apart < _AGREEMENT:
        raise RuntimeError(f"{name}, given the same weights, is {apart:.2g} nats away from the reference")


def _put(layers: list[nn.Linear], network: Network, rows_of_output: Tensor | None = None) -> None:
    """Our weights and masks in place of theirs; the outputs in another order where they have another."""
    with torch.no_grad():
        for place, layer in enumerate(layers):
            which = slice(None) if rows_of_output is None or place < len(layers) - 1 else rows_of_output
            layer.weight.copy_(network.weights[place][which])
            layer.bias.copy_(network.biases[place][which])
            layer.mask.copy_(network.masks[place][which])


def flowtorch_flow(dims: int, hidden: int) -> Any:
    """One affine autoregressive layer of FlowTorch over a standard normal base."""
    import flowtorch.bijectors
    import flowtorch.distributions
    import flowtorch.parameters

    plan = flowtorch.bijectors.AffineAutoregressive(
        flowtorch.parameters.DenseAutoregressive(hidden_dims=(hidden, hidden), permutation=torch.arange(dims))
    )
    return flowtorch.distributions.Flow(normal(dims), plan)


def _flowtorch(network: Network) -> tuple[Direction, Direction]:
    bijector = flowtorch_flow(network.masks[0].shape[1], network.masks[0].shape[0]).bijector
    _put([layer for layer in bijector._params_fn.layers if isinstance(layer, nn.Linear)], network)

    def single_pass(x: Tensor) -> tuple[Tensor, Tensor]:
        y = bijector.forward(x)
        return y, bijector.log_abs_det_jacobian(x, y)

    def d_passes(y: Tensor) -> tuple[Tensor, Tensor]:
        x = bijector.inverse(y)
        return x, -bijector.log_abs_det_jacobian(x, y)

    return single_pass, d_passes


def zuko_layer(dims: int, hidden: int) -> Any:
    """One affine autoregressive layer of zuko."""
    from zuko.flows.autoregressive import MaskedAutoregressiveTransform

    return MaskedAutoregressiveTransform(dims, hidden_features=(hidden, hidden))


def _zuko(network: Network) -> tuple[Direction, Direction]:
    layer = zuko_layer(network.masks[0].shape[1], network.masks[0].shape[0])
    _put([each for each in layer.hyper if isinstance(each, nn.Linear)], network)
    transform = layer()
    return transform.call_and_ladj, transform.inv.call_and_ladj


def nflows_layer(dims: int, hidden: int) -> Any:
    """One affine autoregressive layer of nflows, of two hidden layers: its first is not one of its blocks."""
    from nflows.transforms.autoregressive import MaskedAffineAutoregressiveTransform

    return MaskedAffineAutoregressiveTransform(dims, hidden, num_blocks=1, use_residual_blocks=False)


def _nflows(network: Network) -> tuple[Direction, Direction]:
    return _blocks(nflows_layer(network.masks[0].shape[1], network.masks[0].shape[0]), network)


def _normflows(network: Network) -> tuple[Direction, Direction]:
    from normflows.flows import MaskedAffineAutoregressive

    dims, hidden = network.masks[0].shape[1], network.masks[0].shape[0]
    return _blocks(MaskedAffineAutoregressive(dims, hidden, num_blocks=1, use_residual_blocks=False), network)


def _blocks(layer: Any, network: Network) -> tuple[Direction, Direction]:
    made = layer.autoregressive_net
    scale_first = torch.arange(len(network.biases[-1])).view(-1, 2).flip(1).reshape(-1)
    _put([made.initial_layer, made.blocks[0].linear, made.final_layer], network, scale_first)
    return layer.forward, layer.inverse


def _pyro(network: Network) -> tuple[Direction, Direction]:
    from pyro.distributions.transforms import AffineAutoregressive
    from pyro.nn import AutoRegressiveNN

    dims, hidden = network.masks[0].shape[1], network.masks[0].shape[0]
    net = AutoRegressiveNN(dims, [hidden, hidden], permutation=torch.arange(dims))
    all_mu_first = torch.arange(2 * dims).view(-1, 2).T.reshape(-1)
    _put(list(net.layers), network, all_mu_first)
    transform = AffineAutoregressive(net)

    def single_pass(x: Tensor) -> tuple[Tensor, Tensor]:
        y = transform(x)
        return y, transform.log_abs_det_jacobian(x, y)

    def d_passes(y: Tensor) -> tuple[Tensor, Tensor]:
        x = transform.inv(y)
        return x, -transform.log_abs_det_jacobian(x, y)

    return single_pass, d_passes


def _flowjax(network: Network, rows: Tensor) -> Directions:
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import paramax
    from flowjax.bijections import Affine, MaskedAutoregressive

    dims, hidden = network.masks[0].shape[1], network.masks[0].shape[0]
    layer = MaskedAutoregressive(
        jax.random.key(0), transformer=Affine(), dim=dims, nn_width=hidden, nn_depth=len(network.weights) - 1
    )
    # Unwrapped once, so that the masks are folded, as ours are.
    layer = paramax.unwrap(layer)
    for place, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        layer = eqx.tree_at(
            lambda it, place=place: (
                it.masked_autoregressive_mlp.layers[place].weight,
                it.masked_autoregressive_mlp.layers[place].bias,
            ),
            layer,
            (jnp.asarray(weight.numpy()), jnp.asarray(bias.numpy())),
        )
    arrays, static = eqx.partition(layer, eqx.is_array)
    values = jnp.asarray(rows.numpy())

    def log_prob(noise: Any) -> Any:
        return jax.scipy.stats.norm.logpdf(noise).sum(-1)

    def single_pass(arrays: Any, values: Any) -> Any:
        layer = eqx.combine(arrays, static)
        found, log_det = jax.vmap(layer.transform_and_log_det)(values)
        return found, log_prob(values) - log_det

    def d_passes(arrays: Any, values: Any) -> Any:
        layer = eqx.combine(arrays, static)
        found, log_det = jax.vmap(layer.inverse_and_log_det)(values)
        return found, log_prob(found) + log_det

    def compiled(function: Callable[..., Any]) -> Call:
        program = jax.jit(function).lower(arrays, values).compile()
        return lambda: jax.block_until_ready(program(arrays, values))

    return Directions(compiled(single_pass), compiled(d_passes))


TORCH_PEERS: dict[str, Callable[[Network], tuple[Direction, Direction]]] = {
    "FlowTorch": _flowtorch,
    "zuko": _zuko,
    "nflows": _nflows,
    "Pyro": _pyro,
    "normflows": _normflows,
}

warnings.filterwarnings("ignore", module="flowtorch|nflows|normflows|pyro|zuko")
