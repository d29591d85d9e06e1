"""The ``flowmodel`` command: finds its sub-commands when asked for them, and ends expected mistakes with one line."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any

import click

import flowmodel
from flowmodel.errors import FlowModelError

ENTRY_POINTS = "flowmodel.commands"

# Loaded one by one: `flowmodel models` need not wait until torch is imported.
_COMMANDS = {name: f"flowmodel.cli.{name}" for name in ("train", "publish", "models", "score", "compare", "sample")}


class Commands(click.Group):
    """The commands of this package, and those that installed packages give under :data:`ENTRY_POINTS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, this package's first."""
        added = sorted(point.name for point in metadata.entry_points(group=ENTRY_POINTS))
        return [*_COMMANDS, *(name for name in added if name not in _COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; one whose packages are not installed says so when it is run."""
        if cmd_name in _COMMANDS:
            command: click.Command = getattr(importlib.import_module(_COMMANDS[cmd_name]), cmd_name)
            return command
        for point in metadata.entry_points(group=ENTRY_POINTS, name=cmd_name):
            try:
                command = point.load()
            except ImportError as error:
                return _unavailable(cmd_name, error)
            return command
        return None

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; an expected error becomes one line and exit status 1."""
        try:
            return super().invoke(ctx)
        except FlowModelError as error:
            raise click.ClickException(" ".join(str(error).split())) from error
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            place = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(f"{place}{error.strerror or error}") from error


def _unavailable(name: str, error: ImportError) -> click.Command:
    message = f"{name} needs a package that is not installed ({error}); run: pip install 'flowmodel[{name}]'"

    @click.command(
        name,
        help=f"Not available: {error}.",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        add_help_option=False,
    )
    def unavailable() -> None:
        raise click.ClickException(message)

    return unavailable


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(flowmodel.__version__, prog_name="flowmodel")
def main() -> None:
    """Train normalizing flows, publish them, and get exact log-densities and samples from them.

    Every option can also be given as a variable: --store as FLOWMODEL_STORE, --max-epochs as FLOWMODEL_MAX_EPOCHS.
    """
