"""The command ``flowmodel serve``."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from prometheus_client import disable_created_metrics

from service.announcement import ready_text, waiting_text
from service.engines.engine import EngineError
from service.errors import PortTakenError
from service.request_id import RequestIdFilter
from service.security.certificates import CertificateError
from service.security.tokens import TokenFileError
from service.service import Ports, Service
from service.settings import PREFIX, Settings, SettingsError, load_settings

log = logging.getLogger(__name__)

_OTHER_FILES = 256
"""Files open besides connections: logs, models, pipes of the engine."""

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
    written = logging.StreamHandler(sys.stderr)
    written.addFilter(RequestIdFilter())
    logging.basicConfig(
        handlers=[written],
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s%(request)s: %(message)s",
    )
    # It tells of its start and end, which the service does itself.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    _allow_files(settings)
    # The time each series began, which would double the length of /metrics.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(settings))
    except (PortTakenError, EngineError, TokenFileError, CertificateError) as error:
        raise click.ClickException(str(error)) from None


def _allow_files(settings: Settings) -> None:
    """Have the system let this process open as many connections as the settings do."""
    needed = 2 * settings.max_connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        log.warning(
            "the system lets this process open %d files and no more, too few for max_connections = %d on two servers",
            allowed,
            settings.max_connections,
        )


async def _serve(settings: Settings) -> None:
    """Run the service until a signal or the admin API ends it."""
    stopping = asyncio.Event()
    service = Service(settings)
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, _on_signal, service, stopping)
    working = asyncio.create_task(_work(service))
    ends = [asyncio.create_task(event.wait()) for event in (stopping, service.gateway.stopping)]
    try:
        await asyncio.wait((working, *ends), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (*ends, working):
            task.cancel()
        (outcome,) = await asyncio.gather(working, return_exceptions=True)
        await service.stop()
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)
    if isinstance(outcome, Exception):
        raise outcome


def _on_signal(service: Service, stopping: asyncio.Event) -> None:
    if stopping.is_set():
        service.hurry()
        return
    log.info("stopping: requests under way have %g s to finish", service.settings.drain_seconds)
    stopping.set()


async def _work(service: Service) -> None:
    """Start everything, say so, and wait; ends only by an error or by being cancelled."""
    ports: Ports = await service.listen()
    await service.load()
    if service.gateway.unready_reason is not None:
        click.echo(waiting_text(service, ports))
    await service.ready()
    click.echo(ready_text(service, ports))
    await asyncio.Event().wait()


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


def _loop_factory() -> Any:
    """Uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
