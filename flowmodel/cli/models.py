"""``flowmodel models``: what a store holds."""

from __future__ import annotations

from pathlib import Path

import click

from flowmodel.artefact.manifest import Manifest
from flowmodel.artefact.store import ModelStore
from flowmodel.cli.options import store_option
from flowmodel.errors import ManifestError

_HEADER = ("MODEL", "VERSION", "PUBLISHED", "COLUMNS", "TEST NLL", "DATA")


@click.command()
@click.argument("name", required=False)
@store_option
def models(name: str | None, store: Path) -> None:
    """List the models of a store, or the versions of the model NAME."""
    holds = ModelStore(store)
    if name is None:
        wanted = [(model, holds.versions(model)[-1]) for model in holds.names()]
    else:
        holds.open(name)
        wanted = [(name, version) for version in reversed(holds.versions(name))]
    if not wanted:
        click.echo(f"{store} holds no models; train one with: flowmodel train DATA --model NAME --store {store}")
        return
    lines = [_HEADER, *(_line(holds, model, version) for model, version in wanted)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADER))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _line(store: ModelStore, name: str, version: int) -> tuple[str, ...]:
    try:
        manifest = store.open(name, version).manifest
    except ManifestError as error:
        return (name, str(version), f"unreadable: {error}", "", "", "")
    return (name, str(version), manifest.created, _columns(manifest), _test_nll(manifest), _source(manifest))


def _columns(manifest: Manifest) -> str:
    context = f" + {manifest.context_size}" if manifest.context_size else ""
    return f"{manifest.event_size}{context}"


def _test_nll(manifest: Manifest) -> str:
    value = manifest.training.get("test_nll")
    return f"{value:.3f}" if isinstance(value, int | float) else "-"


def _source(manifest: Manifest) -> str:
    return str(manifest.training.get("source", "-"))
