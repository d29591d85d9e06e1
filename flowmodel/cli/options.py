"""Options that commands share; each can be given as a variable as well."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from flowmodel.artefact.store import is_url

PREFIX = "FLOWMODEL_"

Command = TypeVar("Command", bound=Callable[..., Any])


def option(name: str, **settings: Any) -> Callable[[Command], Command]:
    """An option ``--some-name`` that ``FLOWMODEL_SOME_NAME`` sets as well."""
    variable = PREFIX + name.removeprefix("--").replace("-", "_").upper()
    decorator: Callable[[Command], Command] = click.option(name, envvar=variable, **settings)
    return decorator


class StorePlace(click.ParamType):  # type: ignore[type-arg]
    """A directory, or a URL that fsspec opens."""

    name = "directory|url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        """A path, or the URL as it was given."""
        if is_url(value):
            return str(value)
        return Path(click.Path(path_type=Path, file_okay=False).convert(value, param, ctx))


store_option = option(
    "--store",
    type=StorePlace(),
    default=Path("model_store"),
    show_default=True,
    help="Directory of published models, or a URL such as s3://bucket/models.",
)

version_option = option(
    "--version",
    type=click.IntRange(min=1),
    help="Version of the model.  [default: the one that `flowmodel models` lists as default]",
)


class CsvFile(click.Path):
    """A file to write CSV into, whose name does not say that it is of another kind."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, dir_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what the other commands would read as another kind of file."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if path.suffix.lower() in (".parquet", ".npy"):
            self.fail(f"{path}: CSV is written; expected a name such as {path.with_suffix('.csv')}", param, ctx)
        return path


output_option = option("--output", type=CsvFile(), help="CSV file to write.  [default: standard output]")


class Names(click.ParamType):  # type: ignore[type-arg]
    """Names of columns, between commas."""

    name = "a,b"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Split at commas; a name that holds one itself cannot be given."""
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in str(value).split(","))
        if "" in names:
            self.fail(f"{value!r} holds an empty name; expected names such as age,height", param, ctx)
        return names


class Widths(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers above 0, between commas."""

    name = "256,256"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Split at commas."""
        if isinstance(value, tuple):
            return value
        try:
            widths = tuple(int(width) for width in str(value).split(","))
        except ValueError:
            widths = ()
        if not widths or min(widths) < 1:
            self.fail(f"{value!r} given; expected whole numbers above 0, such as 256,256", param, ctx)
        return widths
