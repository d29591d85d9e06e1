"""Tokens: made, kept as hashes, recognised, changed under a running service."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from click.testing import CliRunner

from service.errors import PermissionDenied, Unauthenticated
from service.security.command import token
from service.security.tokens import Token, TokenFile, TokenFileError, add_token, read_tokens, remove_token


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


def test_a_token_is_recognised_with_its_scopes(path: Path) -> None:
    secrets = {name: add_token(path, name, scopes) for name, scopes in (("a", ["score"]), ("b", ["sample", "admin"]))}
    tokens = TokenFile(path)
    callers = {name: tokens.authenticate(f"bearer  {secret} ") for name, secret in secrets.items()}
    assert {name: (caller.name, caller.scopes) for name, caller in callers.items()} == {
        "a": ("a", {"score"}),
        "b": ("b", {"sample", "admin"}),
    }
    callers["a"].require("score")
    with pytest.raises(PermissionDenied, match=r"'a' has the scope score; this needs admin: .*--scopes admin"):
        callers["a"].require("admin")


def test_the_file_holds_no_secret_and_is_the_owners_alone(path: Path) -> None:
    secrets = [add_token(path, name, ["score"]) for name in "ab"]
    assert len({*secrets}) == 2
    # 256 bits are 43 characters of base 64.
    assert all(len(secret.removeprefix("flowmodel_")) == 43 for secret in secrets)
    assert not any(
        secret in path.read_text() or secret.removeprefix("flowmodel_") in path.read_text() for secret in secrets
    )
    assert path.stat().st_mode & 0o777 == 0o600
    assert not list(path.parent.glob(".tokens*"))


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        (None, "TOKEN_MISSING"),
        ("", "TOKEN_MISSING"),
        ("Bearer", "TOKEN_MALFORMED"),
        ("Basic dXNlcjpwYXNz", "TOKEN_MALFORMED"),
        ("Bearer flowmodel_guess", "TOKEN_UNKNOWN"),
        ("Bearer gu\udcffss", "TOKEN_UNKNOWN"),
    ],
)
def test_what_is_no_token_of_ours_is_refused(path: Path, authorization: str | None, reason: str) -> None:
    add_token(path, "a", ["score"])
    with pytest.raises(Unauthenticated) as raised:
        TokenFile(path).authenticate(authorization)
    assert raised.value.reason == reason
    assert "guess" not in raised.value.message


def test_a_change_of_the_file_counts_at_once(path: Path) -> None:
    first = add_token(path, "first", ["score"])
    tokens = TokenFile(path)
    second = add_token(path, "second", ["sample"])
    assert tokens.authenticate(f"Bearer {second}").name == "second"
    remove_token(path, "first")
    with pytest.raises(Unauthenticated):
        tokens.authenticate(f"Bearer {first}")


@pytest.mark.parametrize("harm", ["damage", "delete", "open"])
def test_a_file_gone_wrong_leaves_the_tokens_read_last(path: Path, harm: str, caplog: pytest.LogCaptureFixture) -> None:
    secret = add_token(path, "a", ["score"])
    tokens, text = TokenFile(path), path.read_text()
    if harm == "damage":
        path.write_text(text + "b score " + secret + "\n")
    elif harm == "delete":
        path.unlink()
    else:
        path.chmod(0o602)
    with caplog.at_level(logging.DEBUG):
        for _ in range(2):
            assert tokens.authenticate(f"Bearer {secret}").name == "a"
    assert len(caplog.records) == 1
    assert "the tokens read last stay in force" in caplog.text
    assert secret not in caplog.text
    path.unlink(missing_ok=True)
    other = add_token(path, "b", ["score"])
    assert tokens.authenticate(f"Bearer {other}").name == "b"
    with pytest.raises(Unauthenticated):
        tokens.authenticate(f"Bearer {secret}")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a score", "line 1: 2 fields given; expected NAME SCOPES sha256:HASH"),
        ("a score flowmodel_secret", "line 1: 3 fields given"),
        (f"a score sha256:{'F' * 64}", "line 1: 3 fields given"),
        (f"# fine\n\na, score sha256:{'0' * 64}", "line 3: the name 'a,' given; expected 1 to 63 letters"),
        (
            f"a score,read sha256:{'0' * 64}",
            "line 1: the scope 'read' given; expected one or more of score, sample, admin",
        ),
        (f"a score sha256:{'0' * 64}\n" * 2, "line 2: a second token called 'a'"),
        ("# nothing yet\n", "holds no token, so nobody could call: make one with `flowmodel token new`"),
    ],
)
def test_a_wrong_file_is_refused_at_start(path: Path, text: str, complaint: str) -> None:
    path.write_text(text)
    with pytest.raises(TokenFileError) as raised:
        TokenFile(path)
    assert complaint in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_file_that_cannot_be_trusted_or_read_is_refused(path: Path) -> None:
    with pytest.raises(TokenFileError, match=r"cannot read the tokens in .*: No such file"):
        TokenFile(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(TokenFileError, match="is not text"):
        TokenFile(path)
    path.chmod(0o666)
    with pytest.raises(TokenFileError, match=r"anybody on this machine may write to .*: run `chmod 600"):
        TokenFile(path)


def test_names_and_scopes_are_checked_when_made(path: Path) -> None:
    add_token(path, "a", ["score"])
    for name, scopes, complaint in (
        ("a", ["score"], "has a token called 'a' already"),
        ("two words", ["score"], "the name 'two words' given"),
        ("b", [], "no scope given"),
        ("b", ["scoer"], "the scope 'scoer' given"),
    ):
        with pytest.raises(TokenFileError, match=complaint):
            add_token(path, name, scopes)
    with pytest.raises(TokenFileError, match="has no token called 'b'; it has a"):
        remove_token(path, "b")


def test_a_line_reads_back() -> None:
    made, _ = Token.new("a", ["admin", "score"])
    assert Token.from_line(made.line()) == made


def test_the_command_makes_lists_and_revokes(path: Path) -> None:
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(token, [*arguments, "--token-file", str(path)], catch_exceptions=False)
        return result.output

    path.write_text("# ours\n")
    secret = run("new", "notebook", "--scopes", "sample,score").strip()
    assert TokenFile(path).authenticate(f"Bearer {secret}").scopes == {"score", "sample"}
    assert run("list") == "notebook\tscore,sample\n"
    assert run("new", "notebook", "--scopes", "score").startswith("Error: ")
    assert run("revoke", "notebook") == ""
    assert path.read_text() == "# ours\n"
    assert read_tokens(path) == ()
