"""The rows that were measured, in a JSON file that an interrupted run goes on from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Record:
    """Rows by section, number of threads and key.

    Rows that were measured of other code, with other versions, on another machine or with another effort are dropped
    when a record is opened.

    Args:
        path: of the JSON file; ``None`` keeps nothing.
        about: what all rows must have in common: code, versions, machine, effort.
    """

    def __init__(self, path: Path | None, about: dict[str, Any]) -> None:
        self.path, self.about = path, about
        self.command = ""
        self.rows: list[Row] = []
        self.dropped = 0
        if path and path.exists():
            content = json.loads(path.read_text())
            if content["about"] == json.loads(json.dumps(about)):
                self.rows = content["rows"]
            else:
                self.dropped = len(content["rows"])

    def find(self, section: str, threads: int, key: list[Any]) -> Row | None:
        """The row of this name, if there is one."""
        wanted = (section, threads, list(key))
        return next((row for row in self.rows if (row["section"], row["threads"], row["key"]) == wanted), None)

    def put(self, row: Row) -> None:
        """Add a row in place of the one with the same name, if any, and save."""
        old = self.find(row["section"], row["threads"], row["key"])
        self.rows = [each for each in self.rows if each is not old] + [row]
        self.save()

    def forget(self, sections: list[str]) -> None:
        """Drop the rows of these sections."""
        self.rows = [row for row in self.rows if row["section"] not in sections]

    def save(self) -> None:
        """Write the file, if there is one to write."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"command": self.command, "about": self.about, "rows": self.rows}
        # Written aside and renamed, so that an interrupted benchmark leaves the record whole.
        aside = self.path.with_suffix(".part")
        aside.write_text(json.dumps(content, indent=1) + "\n")
        aside.replace(self.path)


def fingerprint(root: Path) -> str:
    """Of the code that is measured: every source file of the library, Python and C++.

    Example:
        >>> len(fingerprint(Path(".")))
        12
    """
    digest = hashlib.sha256()
    for path in sorted(path for kind in ("*.py", "*.cpp", "*.hpp") for path in root.rglob(kind)):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]
