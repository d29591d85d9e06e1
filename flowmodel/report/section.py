"""What a section of the page is made of, for the template."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

from markupsafe import Markup


class Cell(NamedTuple):
    """A cell of a table: its text, how it is set, and what is shown when it is pointed at."""

    text: str
    kind: str = ""
    hint: str = ""


class Picture(NamedTuple):
    """A figure with the words above it."""

    svg: Markup
    title: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with a caption; folded away if it is long."""

    caption: str
    head: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    folded: bool = False


@dataclasses.dataclass(frozen=True)
class Section:
    """One section of the page.

    Args:
        key: Its anchor.
        title: Its heading.
        text: Paragraphs before the figures.
        legend: Kind and name of what the figures show.
        pictures: The figures.
        layout: One figure, one that is scrolled on a narrow screen, or several beside each other.
        facts: Terms and what is said of each, one line or several.
        calls: What to type, each with the words above it.
        tables: The tables.
        remarks: A list at the end.
        headline: A number for the top of the page, what it is, and what goes with it.
    """

    key: str
    title: str
    text: Sequence[str] = ()
    legend: Sequence[tuple[str, str]] = ()
    pictures: Sequence[Picture] = ()
    layout: Literal["single", "wide", "grid"] = "single"
    facts: Sequence[tuple[str, Sequence[str]]] = ()
    calls: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    remarks: Sequence[str] = ()
    headline: tuple[str, str, str] | None = None
