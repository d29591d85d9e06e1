"""Who calls, what they may ask for, and how much of it."""

from service.security.caller import ANYONE, CALLER, SCOPES, Caller
from service.security.tokens import Token, TokenFile, TokenFileError

__all__ = ["ANYONE", "CALLER", "SCOPES", "Caller", "Token", "TokenFile", "TokenFileError"]
