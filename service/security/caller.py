"""Who asks: the caller of the request that is being answered."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from service.errors import PermissionDenied

SCOPES = ("score", "sample", "admin")
"""What a token may be good for: log-densities, samples, changes to what is served."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and what for they may.

    Attributes:
        name: of their token; empty where no tokens are asked for.
        scopes: of :data:`SCOPES`.

    Example:
        >>> Caller("notebook", frozenset({"score"})).require("sample")
        Traceback (most recent call last):
        service.errors.PermissionDenied: the token 'notebook' has the scope score; this needs sample: ...
    """

    name: str
    scopes: frozenset[str]

    def require(self, scope: str) -> None:
        """Go on when the caller may.

        Raises:
            PermissionDenied: they may not.
        """
        if scope not in self.scopes:
            held = ", ".join(name for name in SCOPES if name in self.scopes)
            raise PermissionDenied(
                "SCOPE_MISSING",
                f"the token {self.name!r} has the scope {held}; this needs {scope}: "
                f"ask the operator for a token made with --scopes {scope}",
                scope=scope,
            )


ANYONE = Caller("", frozenset(SCOPES))
"""Every caller of a service that asks for no tokens."""

CALLER: ContextVar[Caller] = ContextVar("caller", default=ANYONE)
"""Set where a request enters; read where it is answered, whatever lies between."""
