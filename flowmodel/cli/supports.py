"""Options that say which values columns may hold, and what ``flowmodel train`` says about columns."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import click

from flowmodel.cli.options import option
from flowmodel.data import Table, check_supported, dependent_columns, find_atoms, infer_supports
from flowmodel.data.table import find_columns
from flowmodel.errors import DataError, PlanError
from flowmodel.supports import Bounded, Integer, Periodic, Positive, Real, Support

Declared = dict[str, Support]
Command = TypeVar("Command", bound=Callable[..., Any])
Range = Literal["none", "optional", "needed"]


class Columns(click.ParamType):  # type: ignore[type-arg]
    """Names of columns between commas, each with its range where the kind has one: ``a=0:1,b=0:10``.

    Args:
        kind: the option's name, for messages.
        make: the support of a range; either end may be ``None`` where ``ranges`` is not ``"needed"``.
        ranges: whether a range is wanted.
    """

    def __init__(self, kind: str, make: Callable[[float | None, float | None], Support], ranges: Range) -> None:
        self.kind, self.make, self.ranges = kind, make, ranges
        self.name = {"none": "a,b", "optional": "a,b=0:10", "needed": "a=0:1,b=0:10"}[ranges]

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        """A variable holds one list; blanks belong to its names."""
        return [rv]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Declared:
        """Names and their supports."""
        if isinstance(value, dict):
            return value
        declared: Declared = {}
        for item in str(value).split(","):
            name, equals, text = item.strip().partition("=") if self.ranges != "none" else (item.strip(), "", "")
            if not name:
                self.fail(f"{value!r} holds an empty name; expected {self.name}", param, ctx)
            if name in declared:
                self.fail(f"{value!r} names {name!r} twice; name each column once", param, ctx)
            if not equals and self.ranges == "needed":
                self.fail(f"{item.strip()!r} has no range; expected NAME=LOW:HIGH, such as {name}=0:1", param, ctx)
            try:
                low, high = _ends(text) if equals else (None, None)
                declared[name] = self.make(low, high)
            except PlanError as error:
                self.fail(f"{item.strip()!r}: {error}", param, ctx)
            except (TypeError, ValueError):
                self.fail(f"{item.strip()!r} given; expected NAME=LOW:HIGH, such as {name}=0:1", param, ctx)
        return declared


def _ends(text: str) -> tuple[float | None, float | None]:
    low, high = (end.strip() for end in text.split(":"))
    return float(low) if low else None, float(high) if high else None


def _periodic(low: float | None, high: float | None) -> Support:
    if low is None or high is None:
        raise ValueError("both ends of a circle are needed")
    return Periodic(low, high - low)


def _whole(value: float | None) -> Any:
    return int(value) if value is not None and math.isfinite(value) and value == int(value) else value


_OPTIONS: dict[str, tuple[Columns, str]] = {
    "positive": (Columns("positive", lambda low, high: Positive(), "none"), "Columns of numbers above 0."),
    "bounded": (
        Columns("bounded", lambda low, high: Bounded(low, high), "needed"),  # type: ignore[arg-type]
        "Columns of numbers between two bounds.",
    ),
    "integer": (
        Columns("integer", lambda low, high: Integer(_whole(low), _whole(high)), "optional"),
        "Columns of whole numbers; either end of their range may be left out, as in a=0:.",
    ),
    "periodic": (Columns("periodic", _periodic, "needed"), "Columns of values on a circle, such as heading=0:360."),
    "real": (Columns("real", lambda low, high: Real(), "none"), "Columns of real numbers, whatever they look like."),
}


def support_options(command: Command) -> Command:
    """Give a command ``--positive``, ``--bounded``, ``--integer``, ``--periodic``, ``--real`` and ``--supports``."""
    command = option(
        "--supports",
        type=click.Choice(["infer", "declared"]),
        default="infer",
        show_default=True,
        help="Whether supports that were not declared are guessed from the data.",
    )(command)
    for name, (kind, text) in reversed(_OPTIONS.items()):
        command = option(f"--{name}", type=kind, multiple=True, help=text)(command)
    return command


def column_supports(
    table: Table,
    contexts: Sequence[str],
    *,
    supports: str = "infer",
    **declared: Sequence[Declared],
) -> tuple[Support, ...] | None:
    """The support of each feature column, declared or guessed; guesses and columns to be wary of go to standard error.

    Args:
        table: the feature columns.
        contexts: names of the context columns, which have no support.
        supports: ``"infer"`` or ``"declared"``.
        declared: what the options of :func:`support_options` gave.

    Returns:
        A support for each column, or ``None`` if all are real.

    Raises:
        DataError: a declared column is unknown, a context, declared twice, or holds a value outside its support.
    """
    known = _merged(table, contexts, declared)
    if known:
        check_supported(table.select(list(known)).rows, list(known), list(known.values()), table.source)
    guessed = infer_supports(table, known) if supports == "infer" else {}
    for name, guess in guessed.items():
        _note(f"column {name} is taken for {guess.support.words} ({guess.reason}); overrule it by --real {name}")
    chosen = tuple(known.get(name, guessed[name].support if name in guessed else Real()) for name in table.columns)
    smooth = [name for name, support in zip(table.columns, chosen, strict=True) if not isinstance(support, Integer)]
    for dependent in dependent_columns(table):
        _note(f"{dependent}; log-densities are dominated by that: leave out {dependent.column}")
    for atom in find_atoms(table.select(smooth)) if smooth else ():
        _note(
            f"{atom}, where a density has no bound; leave the column out, or give it by --context-columns, or declare "
            f"it whole by --integer {atom.column}"
        )
    return None if all(support == Real() for support in chosen) else chosen


def _merged(table: Table, contexts: Sequence[str], declared: dict[str, Sequence[Declared]]) -> Declared:
    merged: dict[str, tuple[str, Support]] = {}
    for kind, values in declared.items():
        for name, support in (item for value in values for item in value.items()):
            if name in merged:
                raise DataError(
                    f"{table.source}: column {name!r} was declared by --{merged[name][0]} and --{kind}; declare it once"
                )
            if name in contexts:
                raise DataError(
                    f"{table.source}: column {name!r} is a context, which has no support; take it out of --{kind}"
                )
            find_columns(table.columns, [name], table.source)
            merged[name] = (kind, support)
    return {name: support for name, (_, support) in merged.items()}


def _note(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun starts, one says it
        click.echo(f"Note: {text}.", err=True)
