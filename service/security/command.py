"""The command ``flowmodel token``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from service.security.caller import SCOPES
from service.security.tokens import TokenFileError, add_token, read_tokens, remove_token, scopes_text

_file = click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    envvar="FLOWMODEL_TOKEN_FILE",
    required=True,
    help="File of tokens, the one that `flowmodel serve --token-file` reads.",
)


class _Commands(click.Group):
    """Ends an expected mistake with one line."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TokenFileError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=_Commands)
def token() -> None:
    """Make, list and revoke the tokens that callers of the service present.

    A running service takes a change up with the next request.
    """


@token.command()
@click.argument("name")
@click.option("--scopes", required=True, help=f"What it is good for, with commas: {', '.join(SCOPES)}.")
@_file
def new(name: str, scopes: str, token_file: Path) -> None:
    """Make a token called NAME and print it, once; the file keeps only its hash."""
    click.echo(add_token(token_file, name, scopes.split(",")))


@token.command(name="list")
@_file
def list_tokens(token_file: Path) -> None:
    """Print the name and the scopes of every token."""
    for one in read_tokens(token_file):
        click.echo(f"{one.name}\t{scopes_text(one.scopes)}")


@token.command()
@click.argument("name")
@_file
def revoke(name: str, token_file: Path) -> None:
    """End the token called NAME."""
    remove_token(token_file, name)
