"""The command ``flowmodel serve``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from service.engines.engine import EngineError
from service.errors import PortTakenError
from service.process_setup import allow_files, new_loop, write_log
from service.security.certificates import CertificateError
from service.security.tokens import TokenFileError
from service.settings import PREFIX, Settings, SettingsError, load_settings


def _options(command: Any) -> Any:
    """An option for each setting, with its text and its default, so that ``--help`` documents them all."""
    for name, field in reversed(Settings.model_fields.items()):
        default = field.get_default(call_default_factory=True)
        shown = "" if default is None else f"  [default: {default}]"
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else None
        command = click.option(
            "--" + name.replace("_", "-"),
            name,
            type=click.Choice(choices) if choices else str,
            metavar=None if choices else _metavar(default),
            help=f"{field.description}{shown}",
        )(command)
    return command


def _metavar(default: object) -> str:
    return {int: "NUMBER", float: "SECONDS"}.get(type(default), "TEXT")


@click.command()
@click.option("--config", type=click.Path(path_type=Path), envvar=f"{PREFIX}CONFIG", help="TOML file of settings.")
@_options
@click.pass_context
def serve(context: click.Context, /, config: Path | None, **options: Any) -> None:
    """Serve the models of a store over gRPC and HTTP.

    New versions are picked up while the service runs. Every option is also a FLOWMODEL_* variable and a key of the
    --config file; the command line wins over variables, and these over the file. SIGTERM or Ctrl-C lets requests under
    way finish; a second one does not wait for them.
    """
    try:
        settings = load_settings(config, options, other_variables=lambda: set(_other_variables(context)))
    except SettingsError as error:
        raise click.UsageError(str(error), context) from None
    try:
        if settings.processes == 1:
            _run_here(settings)
        else:
            _run_processes(settings)
    except (PortTakenError, EngineError, TokenFileError, CertificateError) as error:
        raise click.ClickException(str(error)) from None


def _run_here(settings: Settings) -> None:
    """Run the service in this process."""
    from prometheus_client import disable_created_metrics

    from service.running import Running
    from service.service import Service

    write_log(settings.log_level)
    allow_files(settings)
    # The time each series began, which would double the length of /metrics.
    disable_created_metrics()  # type: ignore[no-untyped-call]

    async def run() -> None:
        await Running(Service(settings), lambda news, text: click.echo(text) if text else None).run()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())


def _run_processes(settings: Settings) -> None:
    """Run the service in several processes, of which this one is the parent."""
    # Imported here, as the above: who listens to nobody needs no servers.
    from service.processes.parent import Parent, ServiceFailedError

    write_log(settings.log_level, "parent")

    async def run() -> None:
        await Parent(settings, click.echo).run()

    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(run())
    except ServiceFailedError as error:
        raise click.ClickException(str(error)) from None


def _other_variables(context: click.Context) -> Iterator[str]:
    """``FLOWMODEL_*`` variables of the commands beside this one, and of the library, which are not settings."""
    yield from (f"{PREFIX}CONFIG", f"{PREFIX}NATIVE")
    group = context.find_root().command
    if not isinstance(group, click.Group):
        return
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        for parameter in command.params if command is not None else ():
            yield from [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or ()
