"""The command line: ``flowmodel train``, ``publish``, ``models``, ``score``, ``sample``, and what plug-ins add."""

from flowmodel.cli.group import main

__all__ = ["main"]
