"""Whether every installed distribution is the pinned one, and whether they get on with each other.

Run in the environment that the tests ran in: ``python .ci/pins.py constraints.txt``. ``pip check`` cannot be used
for the second half: the peers that tests compare with are installed without their dependencies, on purpose.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

OURS = {"flowmodel"}
TOOLS = {"pip", "setuptools", "wheel"}
"""Come with the environment itself."""
WITHOUT_DEPENDENCIES = {"flowtorch", "nflows", "tritonclient", "umnn", "zuko"}
"""Peers, see the Makefile."""


def main() -> int:
    """Print what is wrong; the exit status says whether anything is."""
    pinned = dict(read_pins(Path(sys.argv[1])))
    installed = {canonical(found.metadata["Name"]): found.version for found in metadata.distributions()}
    wrong = [*unpinned(installed, pinned), *conflicts(installed)]
    print("\n".join(wrong) or f"{len(installed)} distributions are installed as pinned, and get on with each other")
    return 1 if wrong else 0


def read_pins(path: Path) -> list[tuple[str, str]]:
    """Names and versions of a constraints file."""
    lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    return [(canonical(name), version) for name, _, version in (line.partition("==") for line in lines if line)]


def unpinned(installed: dict[str, str], pinned: dict[str, str]) -> list[str]:
    """A line for each distribution that is not pinned, or installed in another version."""
    wrong = []
    for name, version in sorted(installed.items()):
        # Torch for one kind of machine, as 2.13.0+cpu, is still that version.
        public = version.partition("+")[0]
        if name not in OURS | TOOLS and pinned.get(name) not in (version, public):
            wrong.append(f"{name} {version} is installed; constraints.txt says {pinned.get(name) or 'nothing of it'}")
    return wrong


def conflicts(installed: dict[str, str]) -> list[str]:
    """A line for each requirement of a distribution that is not met."""
    wrong = []
    for found in metadata.distributions():
        name = canonical(found.metadata["Name"])
        if name in WITHOUT_DEPENDENCIES | TOOLS:
            continue
        for text in found.requires or ():
            requirement = Requirement(text)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            version = installed.get(canonical(requirement.name))
            if version is None or not requirement.specifier.contains(version, prereleases=True):
                wrong.append(f"{name} {found.version} needs {text}; {version or 'none'} is installed")
    return wrong


def canonical(name: str) -> str:
    """A distribution's name as the packaging standards compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
