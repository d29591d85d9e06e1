"""The model card: what a model is, what it was trained on, how it is called, and what its answers do not say."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from flowmodel.artefact.manifest import Manifest
from flowmodel.bijectors.compose import Compose
from flowmodel.bijectors.supports import Supports, supports_of
from flowmodel.distributions import Flow
from flowmodel.plans import Plan
from flowmodel.report.drawing import short, shortened
from flowmodel.report.evidence import Evidence
from flowmodel.report.section import Cell, Section, Table
from flowmodel.supports import Integer, Real

_FOLDED_FROM = 16
_MOST_ITEMS = 8


def card_section(evidence: Evidence, manifest: Manifest | None) -> Section:
    """The model card, with what a manifest adds to it if there is one."""
    flow = evidence.model.flow
    facts: list[tuple[str, list[str]]] = []
    if manifest is not None:
        facts += [
            ("model", [f"{manifest.name}, version {manifest.version}, published {manifest.created}"]),
            ("trained on", _trained_on(manifest.training)),
        ]
    facts += [
        ("density of", [_listed(evidence.names)]),
        *([("given", [_listed(evidence.context_names)])] if evidence.context_names else []),
        ("plan, from noise to data", plan_lines(flow.plan)),
        ("base distribution", [base_words(flow)]),
        ("parameters", [f"{sum(parameter.numel() for parameter in flow.parameters()):,}".replace(",", " ")]),
        ("dtype", [str(flow.dtype).removeprefix("torch.")]),
    ]
    if manifest is not None:
        facts += [
            ("training settings", [_settings(manifest.training)]),
            ("self check", [_self_check(manifest.self_check)]),
            ("written by", [f"flowmodel {manifest.flowmodel_version}, torch {manifest.torch_version}"]),
        ]
    calls = [] if manifest is None else _calls(manifest)
    facts = [(term, [line for line in lines if line]) for term, lines in facts]
    facts = [(term, lines) for term, lines in facts if lines]
    return Section(
        "card", "Model card", facts=facts, calls=calls, tables=[_columns(evidence)], remarks=_limits(evidence)
    )


def plan_lines(plan: Plan) -> list[str]:
    """A plan in the words of Python, a line for each part, without what is left at its default.

    Example:
        >>> import flowmodel.bijectors as bij
        >>> plan_lines(bij.Compose([bij.Invert(bij.AffineAutoregressive()), bij.Permute(), bij.Standardize()]))
        ['Invert(AffineAutoregressive())', 'Permute()', 'Standardize()']
    """
    if isinstance(plan, Compose):
        return [line for part in plan.bijectors for line in plan_lines(part)]
    return [_plan_text(plan)]


def base_words(flow: Flow) -> str:
    """Family and parameters of the base distribution.

    Example:
        >>> import torch, flowmodel.bijectors as bij
        >>> base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)
        >>> base_words(Flow(base, bij.Affine()))
        'Normal over 2 dimensions: loc 0, scale 1'
    """
    family = flow.base.family
    size = flow.bijector.event_size
    over = f"over {size} {'dimension' if size == 1 else 'dimensions'}"
    if family is None:
        return f"{type(flow.base_dist).__name__} {over}"
    parameters = []
    for name, value in flow.base.named_buffers():
        low, high = value.min().item(), value.max().item()
        parameters.append(f"{name} {short(low)}" if low == high else f"{name} {short(low)} to {short(high)}")
    return f"{family} {over}: {', '.join(parameters)}"


def _plan_text(value: Any) -> str:
    if isinstance(value, Supports) and len(value.listed) > 1:
        kinds = [type(support).__name__ for support in value.listed]
        return f"Supports({', '.join(f'{kinds.count(kind)} {kind}' for kind in dict.fromkeys(kinds))})"
    if isinstance(value, Plan):
        given = []
        for place, field in enumerate(dataclasses.fields(value)):
            content = getattr(value, field.name)
            if content == _default(field):
                continue
            # The only field of a wrapper needs no name.
            given.append(_plan_text(content) if not place else f"{field.name}={_plan_text(content)}")
        return f"{type(value).__name__}({', '.join(given)})"
    if isinstance(value, tuple | list):
        shown = [_plan_text(item) for item in value[:_MOST_ITEMS]]
        more = [f"… {len(value)} in all"] if len(value) > _MOST_ITEMS else []
        return f"({', '.join(shown + more)}{',' if len(value) == 1 else ''})"
    return f"{value:g}" if isinstance(value, float) else repr(value)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _trained_on(training: dict[str, Any]) -> list[str]:
    rows = training.get("rows")
    lines = [str(training.get("source", ""))]
    if isinstance(rows, dict):
        lines.append("rows: " + ", ".join(f"{number} {part}" for part, number in rows.items()))
    if "fingerprint" in training:
        lines.append(f"SHA-256 of names and values: {training['fingerprint']}")
    return lines


def _settings(training: dict[str, Any]) -> str:
    told = {"source", "fingerprint", "rows", "seconds"}
    settings = {
        key: value
        for key, value in training.items()
        if key not in told and not isinstance(value, dict | list) and "nll" not in key and "bits" not in key
    }
    words = (f"{key.replace('_', ' ')} {short(v) if isinstance(v, float) else v}" for key, v in settings.items())
    return ", ".join(words)


def _self_check(check: dict[str, Any]) -> str:
    if "max_abs_difference" not in check:
        return ""
    return (
        f"the exported scorer and the flow differ by at most {short(check['max_abs_difference'])} nats on "
        f"{check.get('rows_checked', 'all')} rows; up to {short(check.get('tolerance', math.nan))} is rounding"
    )


def _calls(manifest: Manifest) -> list[tuple[str, str]]:
    name = manifest.name
    header = _listed([*manifest.feature_names, *manifest.context_names], most=6)
    context = ", context" if manifest.context_names else ""
    count, drawn = ("len(context)", "context=context, seed=7") if context else ("1000", "seed=7")
    shapes = f"rows: [N, {manifest.event_size}]" + (f", context: [N, {manifest.context_size}]" if context else "")
    return [
        (
            f"Log-densities of a CSV file with the columns {header}, by the service:",
            f"curl -H 'Content-Type: text/csv' --data-binary @rows.csv http://127.0.0.1:8000/v1/models/{name}:logProb",
        ),
        (
            f"The same in Python, and samples ({shapes}):",
            "from service.client import DensityClient\n\n"
            'with DensityClient("127.0.0.1:50051") as client:\n'
            f'    log_prob = client.log_prob("{name}", rows{context})\n'
            f'    samples = client.sample("{name}", {count}, {drawn})',
        ),
        ("Without a service:", f"flowmodel score {name} rows.csv"),
    ]


def _columns(evidence: Evidence) -> Table:
    supports = supports_of(evidence.model.flow.bijector)
    reference = evidence.reference
    levels = (
        np.quantile(reference, [0.05, 0.5, 0.95], axis=0)
        if len(reference)
        else np.full((3, len(evidence.names)), np.nan)
    )
    rows = []
    for place, name in enumerate(evidence.names):
        words = Real().words if supports is None else supports.supports[place].words
        numbers = [Cell(evidence.value_text(place, float(value)), "number") for value in levels[:, place]]
        rows.append([Cell(shortened(name, 48), "name", name), Cell(words), *numbers])
    head = [Cell("column"), Cell("may hold"), *(Cell(level, "number") for level in ("5 %", "median", "95 %"))]
    return Table("Columns: supports, and quantiles of the rows", head, rows, folded=len(rows) > _FOLDED_FROM)


def _limits(evidence: Evidence) -> list[str]:
    supports = supports_of(evidence.model.flow.bijector)
    bounded = supports is not None and any(support != Real() for support in supports.supports)
    remarks = [
        "Log-densities are natural logarithms in the units of the data: a positive one only says that the density "
        "there exceeds 1, and a column in other units shifts all of them by the same amount.",
        "A row outside the support of a column has the log-density -inf; a row with a missing value has none."
        if bounded
        else "All columns count as real numbers: nothing tells the model of bounds, so it may draw values that cannot "
        "be. Supports such as --positive would.",
        "A low log-density says that a row is unusual among the rows trained on, not that it is wrong; a high "
        "one does not say that it is right.",
    ]
    if supports is not None and any(isinstance(support, Integer) for support in supports.supports):
        remarks.append(
            "At a whole number the density of its column stands for the number's probability, by the midpoint rule."
        )
    if evidence.context_names:
        remarks.append("Densities are conditional; nothing is said of how likely a context is.")
    return remarks


def _listed(names: Any, most: int = 24) -> str:
    shown = ", ".join(shortened(name, 60) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
