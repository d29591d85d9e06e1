"""``flowmodel publish``: a published version once more, in another store or under another name."""

from __future__ import annotations

from pathlib import Path

import click

from flowmodel.artefact.republish import republish
from flowmodel.artefact.store import ModelStore
from flowmodel.cli.options import option, store_option
from flowmodel.errors import ModelNotFoundError


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@option("--model", help="Name to publish under.  [default: the name it has]")
@store_option
def publish(source: Path, model: str | None, store: Path | str) -> None:
    """Publish the version in the directory SOURCE, such as old_store/wine/3, as the next version in a store."""
    place = source.resolve()
    if not place.name.isdecimal() or not (place / "manifest.json").is_file():
        raise ModelNotFoundError(f"{source}: no published version; expected a directory such as model_store/wine/3")
    version = ModelStore(place.parent.parent).open(place.parent.name, int(place.name))
    published = republish(version, store, model)
    click.echo(f"Published {published.name} version {published.version} in {published.path}")
