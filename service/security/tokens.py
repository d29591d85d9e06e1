"""Bearer tokens: made once, kept as hashes in a file of one line each, recognised in constant time.

A token is 256 random bits, so nobody finds it by trying, and one SHA-256 of it gives nothing away: the slow, salted
hashes that passwords need would only make every request slow.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from service.errors import Unauthenticated
from service.security.caller import SCOPES, Caller
from service.security.stamp import file_stamp

log = logging.getLogger(__name__)

_PREFIX = "flowmodel_"
"""So that a scanner for leaked secrets knows one when it sees it."""
_RANDOM_BYTES = 32
_HEADING = (
    "# name scopes hash, a line for each token: made by `flowmodel token new`, ended by `flowmodel token revoke`\n"
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_HOW = "expected: Authorization: Bearer TOKEN (in gRPC, the metadata authorization)"


class TokenFileError(Exception):
    """A file of tokens cannot be read or written, or would be without effect."""


@dataclass(frozen=True, slots=True)
class Token:
    """What is kept of one token.

    Attributes:
        name: whose it is, for logs and metrics; 1 to 63 letters, digits, ``.``, ``_`` or ``-``.
        scopes: what it is good for, of ``score``, ``sample`` and ``admin``.
        digest: SHA-256 of the token, which is itself kept nowhere.
    """

    name: str
    scopes: frozenset[str]
    digest: bytes

    @classmethod
    def new(cls, name: str, scopes: Iterable[str]) -> tuple[Token, str]:
        """Make one; the second value is the secret, to be shown once.

        Raises:
            TokenFileError: the name or a scope is none.
        """
        secret = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
        return cls(_checked_name(name), _checked_scopes(scopes), _digest(secret)), secret

    @classmethod
    def from_line(cls, line: str) -> Token:
        """Read a line of the file.

        Raises:
            TokenFileError: it is not a name, scopes and a hash.
        """
        fields = line.split()
        if len(fields) != 3 or not _HASH.fullmatch(fields[2]):
            # Never the line itself: somebody may have written a token where its hash belongs.
            raise TokenFileError(f"{len(fields)} fields given; expected NAME SCOPES sha256:HASH, a name without blanks")
        name, scopes, digest = fields
        return cls(_checked_name(name), _checked_scopes(scopes.split(",")), bytes.fromhex(digest.partition(":")[2]))

    def line(self) -> str:
        """The token as it stands in the file."""
        return f"{self.name} {scopes_text(self.scopes)} sha256:{self.digest.hex()}\n"


class TokenFile:
    """The tokens in one file, read again whenever it changes.

    A change counts from the next request on. A file that has become unreadable leaves the tokens read last in force and
    is logged: a slip while editing should not lock everybody out.

    Args:
        path: the file.

    Raises:
        TokenFileError: it cannot be read, anybody may write to it, or it holds what is no token.

    Example:
        >>> path = Path(getfixture("tmp_path")) / "tokens"
        >>> secret = add_token(path, "notebook", ["score"])
        >>> tokens = TokenFile(path)
        >>> tokens.authenticate(f"Bearer {secret}").name
        'notebook'
        >>> tokens.authenticate("Bearer guess")
        Traceback (most recent call last):
        service.errors.Unauthenticated: the token given is not one of this service's; ...
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp = file_stamp(path)
        self._tokens = read_tokens(path)
        if not self._tokens:
            raise TokenFileError(f"{path} holds no token, so nobody could call: make one with `flowmodel token new`")

    def authenticate(self, authorization: str | None) -> Caller:
        """Who presents this ``Authorization`` header, or metadata value.

        Raises:
            Unauthenticated: nobody known does.
        """
        if not authorization:
            raise Unauthenticated("TOKEN_MISSING", f"no token given; {_HOW}")
        scheme, _, secret = authorization.strip().partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise Unauthenticated("TOKEN_MALFORMED", f"credentials of another kind given; {_HOW}")
        self._refresh()
        digest, found = _digest(secret.strip()), None
        # Every token is compared, to the last byte: how long it takes says nothing about which one was near.
        for token in self._tokens:
            if hmac.compare_digest(token.digest, digest):
                found = token
        if found is None:
            raise Unauthenticated("TOKEN_UNKNOWN", f"the token given is not one of this service's; {_HOW}")
        return Caller(found.name, found.scopes)

    def _refresh(self) -> None:
        stamp = file_stamp(self.path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._tokens = read_tokens(self.path)
        except TokenFileError as error:
            log.error("the tokens read last stay in force: %s", error)
        else:
            log.info("%d tokens read from %s", len(self._tokens), self.path)


def read_tokens(path: Path) -> tuple[Token, ...]:
    """The tokens in a file, in order; none when there are only comments and empty lines.

    Raises:
        TokenFileError: it cannot be read, anybody may write to it, or a line is no token.
    """
    try:
        if os.name == "posix" and path.stat().st_mode & stat.S_IWOTH:
            raise TokenFileError(f"anybody on this machine may write to {path}: run `chmod 600 {path}`")
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise TokenFileError(f"cannot read the tokens in {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise TokenFileError(f"{path} is not text; expected a line for each token") from None
    tokens: dict[str, Token] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            token = Token.from_line(line)
            if token.name in tokens:
                raise TokenFileError(f"a second token called {token.name!r}")
        except TokenFileError as error:
            raise TokenFileError(f"{path}, line {number}: {error}") from None
        tokens[token.name] = token
    return tuple(tokens.values())


def add_token(path: Path, name: str, scopes: Iterable[str]) -> str:
    """Make a token and write its hash into a file, which is made if it is missing.

    Returns:
        The secret, which nobody can tell again.

    Raises:
        TokenFileError: the name is taken or none, a scope is none, or the file cannot be read or written.
    """
    token, secret = Token.new(name, scopes)
    tokens = read_tokens(path) if path.exists() else ()
    if any(token.name == other.name for other in tokens):
        raise TokenFileError(f"{path} has a token called {name!r} already; choose another name, or revoke that one")
    text = path.read_text(encoding="utf-8") if path.exists() else _HEADING
    _replace(path, text + ("" if text.endswith("\n") else "\n") + token.line())
    return secret


def remove_token(path: Path, name: str) -> None:
    """Take a token out of a file.

    Raises:
        TokenFileError: there is none of that name, or the file cannot be read or written.
    """
    names = [token.name for token in read_tokens(path)]
    if name not in names:
        raise TokenFileError(f"{path} has no token called {name!r}; it has {', '.join(names) or 'none'}")
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    _replace(path, "".join(line for line in lines if line.split()[:1] != [name]))


def scopes_text(scopes: Iterable[str]) -> str:
    """Scopes in their usual order, with commas."""
    held = set(scopes)
    return ",".join(scope for scope in SCOPES if scope in held)


def _replace(path: Path, text: str) -> None:
    """Put a file in another one's place at once: a service that reads it meanwhile sees the one or the other."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o600
        handle, temporary = tempfile.mkstemp(dir=path.resolve().parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, mode)
            os.replace(temporary, path.resolve())
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise TokenFileError(f"cannot write the tokens to {path}: {error.strerror or error}") from None


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise TokenFileError(
            f"the name {name!r} given; expected 1 to 63 letters, digits, '.', '_' or '-', the first a letter or digit"
        )
    return name


def _checked_scopes(scopes: Iterable[str]) -> frozenset[str]:
    given = [scope.strip() for scope in scopes]
    for scope in given:
        if scope not in SCOPES:
            raise TokenFileError(f"the scope {scope!r} given; expected one or more of {', '.join(SCOPES)}")
    if not given:
        raise TokenFileError(f"no scope given; expected one or more of {', '.join(SCOPES)}")
    return frozenset(given)
