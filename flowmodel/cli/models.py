"""``flowmodel models``: what a store holds, and which versions of it answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from flowmodel.artefact.manifest import Manifest
from flowmodel.artefact.remote_store import open_store
from flowmodel.artefact.rollout import Rollout
from flowmodel.artefact.serving import LATEST, Serving
from flowmodel.artefact.store import ModelStore
from flowmodel.cli.options import store_option
from flowmodel.errors import ManifestError, ServingError

_HEADER = ("MODEL", "VERSION", "SERVING", "PUBLISHED", "COLUMNS", "TEST NLL", "DATA")

version_argument = click.argument("version", type=click.IntRange(min=1))


class _VersionOrWord(click.ParamType):  # type: ignore[type-arg]
    """A version, or one word that stands for something else."""

    def __init__(self, word: str) -> None:
        self.name = f"version|{word}"
        self._word = word

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """The version; None for the word."""
        if value == self._word or value is None:
            return None
        try:
            return click.IntRange(min=1).convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} given; expected a version such as 3, or {self._word}", param, ctx)


class _ModelsGroup(click.Group):
    """Lists when no sub-command is named, so that ``flowmodel models NAME`` is short for ``models list NAME``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``list`` in front of what names no sub-command."""
        if not {"-h", "--help"}.intersection(args[:1]) and not (args and args[0] in self.commands):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_ModelsGroup)
def models() -> None:
    """List the models of a store, and choose the versions that answer.

    A running service follows a change at its next look at the store. Without a sub-command this lists.
    """


@models.command("list")
@click.argument("name", required=False)
@store_option
def list_models(name: str | None, store: Path | str) -> None:
    """List the models of a store, or the versions of the model NAME."""
    holds = open_store(store)
    if name is None:
        wanted = [(model, _shown(holds, model)) for model in holds.names()]
    else:
        wanted = [(name, version) for version in reversed(holds.check_model(name))]
    if not wanted:
        click.echo(f"{store} holds no models; train one with: flowmodel train DATA --model NAME --store {store}")
        return
    lines = [_HEADER, *(_line(holds, model, version) for model, version in wanted)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADER))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


@models.command()
@click.argument("name")
@click.argument("version", type=_VersionOrWord(LATEST))
@store_option
def default(name: str, version: int | None, store: Path | str) -> None:
    """Let VERSION of the model NAME answer requests that name none; "latest" for the newest, also of those to come."""
    _change(store, name, lambda rollout: rollout.default(version))


@models.command()
@click.argument("name")
@store_option
def rollback(name: str, store: Path | str) -> None:
    """Go back to the version of the model NAME that was the default before."""
    _change(store, name, lambda rollout: rollout.rollback())


@models.command()
@click.argument("name")
@version_argument
@click.option("--force", is_flag=True, help="Even if it is the default; the one before it becomes the default.")
@click.option("--undo", is_flag=True, help="Let a retired version answer again.")
@store_option
def retire(name: str, version: int, force: bool, undo: bool, store: Path | str) -> None:
    """Let VERSION of the model NAME answer no more. Its directory stays as it is."""
    if undo:
        _change(store, name, lambda rollout: rollout.restore(version))
    else:
        _change(store, name, lambda rollout: rollout.retire(version, force=force))


@models.command()
@click.argument("name")
@click.argument("version", type=_VersionOrWord("none"))
@click.option(
    "--weight", type=float, default=0.05, show_default=True, help="Share of the requests, above 0 and at most 1."
)
@store_option
def canary(name: str, version: int | None, weight: float, store: Path | str) -> None:
    """Let VERSION answer a share of the requests to the model NAME that name no version; "none" ends it."""
    _change(store, name, lambda rollout: rollout.canary(version, weight))


@models.command()
@click.argument("name")
@click.argument("version", type=_VersionOrWord("none"))
@store_option
def shadow(name: str, version: int | None, store: Path | str) -> None:
    """Score what the default version of NAME scores on VERSION too, and count the differences; "none" ends it."""
    _change(store, name, lambda rollout: rollout.shadow(version))


def _change(store: Path | str, name: str, change: Callable[[Rollout], Serving]) -> None:
    holds = open_store(store)
    serving = change(Rollout(holds, name))
    click.echo(f"{name}: {_said(serving, holds.versions(name))}")


def _said(serving: Serving, versions: list[int]) -> str:
    """One line on who answers now."""
    default = serving.default_of(versions)
    if default is None:
        text = "no version answers by default"
    else:
        text = f"version {default} answers by default" + (", the newest" if serving.default is None else "")
    previous = serving.previous_of(versions)
    parts = [text + (f" (rollback goes to {previous})" if previous else "")]
    if serving.canary:
        parts.append(f"canary {serving.canary.version} gets {serving.canary.weight:.3g} of the requests")
    if serving.shadow:
        parts.append(f"shadow {serving.shadow}")
    if serving.retired:
        parts.append(f"retired {', '.join(map(str, serving.retired))}")
    return "; ".join(parts)


def _shown(store: ModelStore, name: str) -> int:
    """The version by which a model is listed: the default one, or the newest where that cannot be told."""
    versions = store.versions(name)
    try:
        return store.serving(name).default_of(versions) or versions[-1]
    except ServingError:
        return versions[-1]


def _line(store: ModelStore, name: str, version: int) -> tuple[str, ...]:
    try:
        role = _role(store.serving(name), version, store.versions(name))
        manifest = store.manifest(name, version)
    except (ManifestError, ServingError) as error:
        return (name, str(version), "-", f"unreadable: {error}", "", "", "")
    return (name, str(version), role, manifest.created, _columns(manifest), _test_nll(manifest), _source(manifest))


def _role(serving: Serving, version: int, versions: list[int]) -> str:
    if version in serving.retired:
        return "retired"
    if version == serving.default_of(versions):
        return "default" if serving.default else "default (latest)"
    if serving.canary and serving.canary.version == version:
        return f"canary {serving.canary.weight:.3g}"
    if serving.shadow == version:
        return "shadow"
    return "previous" if version == serving.previous_of(versions) else "-"


def _columns(manifest: Manifest) -> str:
    context = f" + {manifest.context_size}" if manifest.context_size else ""
    return f"{manifest.event_size}{context}"


def _test_nll(manifest: Manifest) -> str:
    value = manifest.training.get("test_nll")
    return f"{value:.3f}" if isinstance(value, int | float) else "-"


def _source(manifest: Manifest) -> str:
    return str(manifest.training.get("source", "-"))
