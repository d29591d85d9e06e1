"""Base distributions as modules, so that they move, and are saved, with the flow.

A ``torch.distributions`` object is not a module: ``flow.to(device)`` and ``state_dict`` would pass its tensors by. The
known families are therefore taken apart into buffers and put together again whenever they are needed.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    Laplace,
    MixtureSameFamily,
    Normal,
    StudentT,
    Uniform,
    constraints,
)

from flowmodel.bijectors.eager import runs_eagerly
from flowmodel.distributions.base_folded import (
    FoldedBase,
    FoldedLaplace,
    FoldedNormal,
    FoldedNormalMixture,
    FoldedStudentT,
    FoldedUniform,
)
from flowmodel.distributions.normal_log_prob import NormalLogProb
from flowmodel.errors import DtypeMismatchError, ExportError, PlanError

_MIXTURE = "NormalMixture"

_DIAGONAL: dict[str, tuple[Callable[..., Distribution], Callable[..., FoldedBase]]] = {
    "Normal": (Normal, FoldedNormal),
    "Laplace": (Laplace, FoldedLaplace),
    "StudentT": (StudentT, FoldedStudentT),
    "Uniform": (Uniform, FoldedUniform),
}

_PARAMETERS: dict[str, tuple[str, ...]] = {
    "Normal": ("loc", "scale"),
    "Laplace": ("loc", "scale"),
    "StudentT": ("df", "loc", "scale"),
    "Uniform": ("low", "high"),
    _MIXTURE: ("logits", "loc", "scale"),
}

_DTYPES = {"float32": torch.float32, "float64": torch.float64}

_CHOICES = (
    "Normal, Laplace, StudentT or Uniform, or MixtureSameFamily(Categorical, Normal), under Independent such that the "
    "batch shape is ()"
)


@dataclasses.dataclass(frozen=True)
class _Parts:
    """A distribution taken apart."""

    family: str
    event_dims: int
    component_dims: int
    parameters: dict[str, Tensor]


class BaseDistribution(torch.nn.Module):
    """The distribution of the noise.

    Args:
        distribution: a ``Normal``, ``Laplace``, ``StudentT`` or ``Uniform``, or a ``MixtureSameFamily`` of a
            ``Categorical`` and a (possibly ``Independent``) ``Normal``, alone or under ``Independent``; any other
            distribution is kept as it is, works where it was made, and can be neither moved, saved nor exported.

    Raises:
        PlanError: the parameters of the distribution are no floating-point numbers.

    Example:
        >>> import torch
        >>> from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
        >>> components = Independent(Normal(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), torch.ones(2, 2)), 1)
        >>> base = BaseDistribution(MixtureSameFamily(Categorical(torch.tensor([0.3, 0.7])), components))
        >>> sorted(base.state_dict()), base.double().distribution().sample().dtype
        (['loc', 'logits', 'scale'], torch.float64)
    """

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        parts = _take_apart(distribution)
        self._foreign = _unvalidated(distribution) if parts is None else None
        self.family = None if parts is None else parts.family
        self.event_dims = len(distribution.event_shape)
        self.component_dims = 0 if parts is None else parts.component_dims
        if parts is not None:
            for name, value in parts.parameters.items():
                self.register_buffer(name, value.detach().clone())
        if not self.probe().dtype.is_floating_point:
            raise PlanError(
                f"Flow: base distribution {name_of(distribution)} of {self.probe().dtype} given; expected "
                "floating-point parameters, such as torch.zeros(2) and torch.ones(2)"
            )

    def probe(self) -> Tensor:
        """A tensor in the dtype and on the device of the noise."""
        return next(self.buffers()) if self._foreign is None else _first_tensor(self._foreign)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if self._foreign is not None:
            own = self.probe()
            moved = fn(own)
            if moved.dtype != own.dtype or moved.device != own.device:
                raise DtypeMismatchError(
                    f"base distribution {name_of(self._foreign)} cannot be moved from {own.dtype} on {own.device} to "
                    f"{moved.dtype} on {moved.device}; make the flow anew from one made there, or use {_CHOICES}"
                )
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]

    def distribution(self) -> Distribution:
        """The ``torch.distributions`` object over the present buffers; values are checked by the flow, not by it."""
        if self._foreign is not None:
            return self._foreign
        return _put_together(_Parts(str(self.family), self.event_dims, self.component_dims, self._parameters_by_name()))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of ``x[..., *batch_shape, *event_shape]``: ``[..., *batch_shape]``, in the dtype of ``x``.

        It is that of :meth:`distribution`, but for two of torch's weaknesses: in float32 the normaliser of a Student t
        of many degrees of freedom is the difference of two large numbers (0.4 nats off at a million), and a NaN under a
        Uniform counts as a value outside of it.
        """
        if self.family == "StudentT":
            df, loc, scale = (value.to(torch.float64) for value in self._parameters_by_name().values())
            factor = torch.lgamma((df + 1) / 2) - torch.lgamma(df / 2) - 0.5 * torch.log(math.pi * df) - scale.log()
            of_dims = factor - (df + 1) / 2 * torch.log1p(((x.to(torch.float64) - loc) / scale) ** 2 / df)
            dims = list(range(-self.event_dims, 0))
            return (of_dims.sum(dims) if dims else of_dims).to(x.dtype)
        if self._foreign is not None:
            return _log_prob_or_zero_density(self._foreign, x)
        if self.family == "Normal" and self.event_dims == 1 and x.dim() == 2 and runs_eagerly():
            loc, scale = self._parameters_by_name().values()
            if loc.dim() == 1 and not (loc.requires_grad or scale.requires_grad):
                of_rows: Tensor = NormalLogProb.apply(x, loc, scale)  # type: ignore[no-untyped-call]
                return of_rows
        log_prob = self.distribution().log_prob(x)
        if self.family == "Uniform":
            missing = torch.isnan(x)
            missing = missing.flatten(x.dim() - self.event_dims).any(-1) if self.event_dims else missing
            log_prob = log_prob.masked_fill(missing, float("nan"))
        return log_prob

    def to_json(self) -> dict[str, Any]:
        """Family, parameters (nested lists, which read back as the same floats) and event dimensions.

        Raises:
            ExportError: the distribution is of no known family, or a parameter is not finite.
        """
        if self._foreign is not None:
            raise ExportError(
                f"base distribution {name_of(self._foreign)} cannot be written to an artefact; use {_CHOICES}"
            )
        parameters = self._parameters_by_name()
        for name, value in parameters.items():
            if not bool(torch.isfinite(value).all()):
                raise ExportError(
                    f"base distribution {self.family}: {name} holds a value that is not finite and cannot be written "
                    "to an artefact; make it finite, or leave out a component of weight 0"
                )
        dtype = str(self.probe().dtype).removeprefix("torch.")
        if dtype not in _DTYPES:
            raise ExportError(
                f"base distribution {self.family} of {dtype} cannot be written to an artefact; expected float32 or "
                "float64: flow.float()"
            )
        lists = {name: value.tolist() for name, value in parameters.items()}
        written = {"family": self.family, "event_dims": self.event_dims, "dtype": dtype, "parameters": lists}
        return written | ({"component_dims": self.component_dims} if self.family == _MIXTURE else {})

    def check_exportable(self) -> None:
        """Raise an :class:`~flowmodel.errors.ExportError` unless :meth:`fold` and :meth:`to_json` are possible."""
        shape = tuple(self.distribution().batch_shape)
        if self._foreign is not None:
            raise ExportError(f"base distribution {name_of(self._foreign)} cannot be exported; use {_CHOICES}")
        if shape:
            raise ExportError(
                f"base distribution {self.family} with batch shape {shape} cannot be exported, for a model has one "
                f"density; wrap it in torch.distributions.Independent(base, {len(shape)}), which makes the batch part "
                "of the event"
            )
        self.to_json()

    def fold(self) -> FoldedBase:
        """The base for TorchScript, over the flattened event.

        Raises:
            ExportError: the base is of no known family, or has a batch shape.
        """
        self.check_exportable()
        values = self._parameters_by_name()
        if self.family != _MIXTURE:
            return _DIAGONAL[str(self.family)][1](*(value.flatten().clone() for value in values.values()))
        blocks, components = values["logits"].shape[:-1].numel(), values["logits"].shape[-1]
        loc, scale = (values[name].reshape(blocks, components, -1).clone() for name in ("loc", "scale"))
        return FoldedNormalMixture(values["logits"].reshape(blocks, components).clone(), loc, scale)

    def _parameters_by_name(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in _PARAMETERS[str(self.family)]}


def base_from_json(value: Mapping[str, Any]) -> Distribution:
    """The base distribution that :meth:`BaseDistribution.to_json` wrote.

    Raises:
        PlanError: the family or dtype is unknown, a parameter is missing, or the parameters make no distribution.
    """
    family = value.get("family")
    if family not in _PARAMETERS:
        raise PlanError(f"unknown base distribution {family!r}; expected one of {', '.join(_PARAMETERS)}")
    missing = [name for name in _PARAMETERS[family] if name not in value.get("parameters", {})]
    if missing:
        raise PlanError(f"base distribution {family}: parameter(s) {missing} missing")
    dtype = _DTYPES.get(value.get("dtype", ""))
    if dtype is None:
        raise PlanError(f"base distribution {family}: dtype {value.get('dtype')!r} given; expected float32 or float64")
    try:
        parameters = {name: torch.tensor(value["parameters"][name], dtype=dtype) for name in _PARAMETERS[family]}
        parts = _Parts(family, int(value["event_dims"]), int(value.get("component_dims", 0)), parameters)
        return _put_together(parts, validate_args=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise PlanError(f"base distribution {family} cannot be made of its parameters: {error}") from None


def _take_apart(distribution: Distribution) -> _Parts | None:
    """Family, dimensions and parameters of a known distribution, ``None`` of another."""
    inner = _inside(distribution)
    event_dims = len(distribution.event_shape)
    for family, (kind, _) in _DIAGONAL.items():
        if type(inner) is kind:
            return _Parts(family, event_dims, 0, {name: getattr(inner, name) for name in _PARAMETERS[family]})
    if type(inner) is MixtureSameFamily and type(inner.mixture_distribution) is Categorical:
        component = _inside(inner.component_distribution)
        if type(component) is Normal:
            logits = inner.mixture_distribution.logits
            parameters = {"logits": logits, "loc": component.loc, "scale": component.scale}
            return _Parts(_MIXTURE, event_dims, len(inner.component_distribution.event_shape), parameters)
    return None


def _put_together(parts: _Parts, *, validate_args: bool = False) -> Distribution:
    values = parts.parameters
    inner: Distribution
    if parts.family == _MIXTURE:
        component = Normal(values["loc"], values["scale"], validate_args=validate_args)
        components = _independent(component, parts.component_dims, validate_args)
        weights = Categorical(logits=values["logits"], validate_args=validate_args)
        inner = MixtureSameFamily(weights, components, validate_args=validate_args)
    else:
        inner = _DIAGONAL[parts.family][0](*values.values(), validate_args=validate_args)
    return _independent(inner, parts.event_dims - parts.component_dims, validate_args)


def _independent(distribution: Distribution, dims: int, validate_args: bool) -> Distribution:
    return Independent(distribution, dims, validate_args=validate_args) if dims else distribution


def _inside(distribution: Distribution) -> Distribution:
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def _unvalidated(distribution: Distribution) -> Distribution:
    """A copy over the same tensors that checks no values: outside its support a density is 0, not an error."""
    copied = copy.copy(distribution)
    copied._validate_args = False
    inner = {name: _unvalidated(value) for name, value in vars(copied).items() if isinstance(value, Distribution)}
    vars(copied).update(inner)
    return copied


def _log_prob_or_zero_density(distribution: Distribution, x: Tensor) -> Tensor:
    log_prob = distribution.log_prob(x)
    try:
        support = distribution.support
    except NotImplementedError:
        return log_prob
    if support is None or support is constraints.dependent:
        return log_prob
    dims = len(distribution.event_shape)
    missing = torch.isnan(x).flatten(x.dim() - dims).any(-1) if dims else torch.isnan(x)
    inside: Tensor = support.check(x)  # type: ignore[no-untyped-call]
    return log_prob.masked_fill(~(inside | missing), -math.inf)


def _first_tensor(distribution: Distribution) -> Tensor:
    for value in vars(distribution).values():
        if isinstance(value, Tensor) and value.numel():
            return value
    inner = [value for value in vars(distribution).values() if isinstance(value, Distribution)]
    return _first_tensor(inner[0]) if inner else torch.empty(0)


def name_of(distribution: Distribution) -> str:
    """The name of a distribution, looked up inside ``Independent`` and mixtures."""
    inner = _inside(distribution)
    if isinstance(inner, MixtureSameFamily):
        weights = type(inner.mixture_distribution).__name__
        return f"{type(inner).__name__}({weights}, {name_of(inner.component_distribution)})"
    return type(inner).__name__
