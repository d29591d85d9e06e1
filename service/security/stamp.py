"""Whether a file was changed since it was last read."""

from __future__ import annotations

from pathlib import Path


def file_stamp(path: Path) -> tuple[int, ...] | None:
    """What differs when a file was changed or another one put in its place; None while there is none.

    Links are followed: the files of a Kubernetes secret are links, of which only the last one's target changes.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
