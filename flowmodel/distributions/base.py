"""Base distributions as modules, so that they move, and are saved, with the flow.

A ``torch.distributions`` object is not a module: ``flow.to(device)`` and ``state_dict`` would pass its tensors by. The
known families are therefore taken apart into buffers and put together again whenever they are needed.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Laplace, Normal, StudentT, Uniform

from flowmodel.errors import ExportError, PlanError

_FAMILIES: dict[str, tuple[Callable[..., Distribution], tuple[str, ...]]] = {
    "Normal": (Normal, ("loc", "scale")),
    "Laplace": (Laplace, ("loc", "scale")),
    "StudentT": (StudentT, ("df", "loc", "scale")),
    "Uniform": (Uniform, ("low", "high")),
}


class BaseDistribution(torch.nn.Module):
    """The distribution of the noise.

    Args:
        distribution: a ``Normal``, ``Laplace``, ``StudentT`` or ``Uniform``, alone or under ``Independent``; any other
            distribution is kept as it is, works where it was made, and can be neither moved, saved nor exported.
    """

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        self.event_dims = len(distribution.event_shape)
        inner = distribution
        while isinstance(inner, Independent):
            inner = inner.base_dist
        self.family = next((name for name, (cls, _) in _FAMILIES.items() if type(inner) is cls), None)
        self._foreign = distribution if self.family is None else None
        if self.family is not None:
            for name in _FAMILIES[self.family][1]:
                self.register_buffer(name, getattr(inner, name).detach().clone())

    def distribution(self) -> Distribution:
        """The ``torch.distributions`` object over the present buffers; values are checked by the flow, not by it."""
        if self._foreign is not None:
            return self._foreign
        cls, names = _FAMILIES[str(self.family)]
        inner = cls(*(getattr(self, name) for name in names), validate_args=False)
        return Independent(inner, self.event_dims, validate_args=False) if self.event_dims else inner

    def to_json(self) -> dict[str, Any]:
        """Family, parameters (nested lists) and event dimensions.

        Raises:
            ExportError: the distribution is of no known family.
        """
        if self.family is None:
            raise ExportError(
                f"base distribution {type(self._foreign).__name__} cannot be written to an artefact; use one of "
                f"{', '.join(_FAMILIES)} (under Independent)"
            )
        parameters = {name: getattr(self, name).tolist() for name in _FAMILIES[self.family][1]}
        dtype = str(getattr(self, _FAMILIES[self.family][1][0]).dtype).removeprefix("torch.")
        return {"family": self.family, "event_dims": self.event_dims, "dtype": dtype, "parameters": parameters}

    def fold(self, event_size: int) -> "FoldedNormal":
        """The base for TorchScript.

        Raises:
            ExportError: the base is not a diagonal normal distribution over one event.
        """
        buffers = dict(self.named_buffers())
        if self.family != "Normal" or buffers["loc"].numel() != event_size:
            name = self.family or type(self._foreign).__name__
            raise ExportError(
                f"base distribution {name} with batch shape {tuple(self.distribution().batch_shape)} cannot be "
                "exported; expected Independent(Normal(loc, scale), n) that covers one event"
            )
        return FoldedNormal(buffers["loc"].flatten().clone(), buffers["scale"].flatten().clone())


class FoldedNormal(torch.nn.Module):
    r"""A diagonal normal: :math:`\log p(x) = -\sum_i [(x_i - m_i)^2 / 2 s_i^2 + \log s_i] - \tfrac D2 \log 2\pi`."""

    loc: Tensor
    scale: Tensor
    log_normaliser: Tensor

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)
        constant = scale.to(torch.float64).log().sum() + 0.5 * loc.numel() * math.log(2 * math.pi)
        self.register_buffer("log_normaliser", constant.to(scale.dtype))

    def from_noise(self, noise: Tensor) -> Tensor:
        """Standard normal noise ``[N, D]`` to a draw from this distribution."""
        return self.loc + self.scale * noise.to(self.scale.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of ``x[N, D]``: ``[N]``."""
        z = (x - self.loc) / self.scale
        return -0.5 * (z * z).sum(1) - self.log_normaliser


def base_from_json(value: Mapping[str, Any]) -> Distribution:
    """The base distribution that :meth:`BaseDistribution.to_json` wrote.

    Raises:
        PlanError: the family is unknown or a parameter is missing.
    """
    family = value.get("family")
    if family not in _FAMILIES:
        raise PlanError(f"unknown base distribution {family!r}; expected one of {', '.join(_FAMILIES)}")
    cls, names = _FAMILIES[family]
    missing = [name for name in names if name not in value.get("parameters", {})]
    if missing:
        raise PlanError(f"base distribution {family}: parameter(s) {missing} missing")
    dtype = {"float32": torch.float32, "float64": torch.float64}[value["dtype"]]
    inner = cls(*(torch.tensor(value["parameters"][name], dtype=dtype) for name in names))
    event_dims = int(value["event_dims"])
    return Independent(inner, event_dims) if event_dims else inner
