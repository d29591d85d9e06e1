"""Numbers and tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable


def number(value: float | None) -> str:
    """Three digits.

    Example:
        >>> [number(value) for value in (0.012345, 1.5, 12.34, 1234.5, 181234.0, None)]
        ['0.0123', '1.50', '12.3', '1234', '181234', '']
    """
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:.0f}"
    digits = 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3 if abs(value) >= 0.1 else 4
    return f"{value:.{digits}f}"


def table(heads: list[str], lines: Iterable[list[str]]) -> str:
    """A Markdown table; nothing when it has no lines.

    Example:
        >>> print(table(["a", "b"], [["1", "2"]]))
        | a | b |
        |---|---|
        | 1 | 2 |
    """
    body = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *body]) if body else ""
