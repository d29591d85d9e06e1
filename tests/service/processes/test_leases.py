"""Leases: a version belongs to whoever uses it, and to nobody once they are gone, in whatever way."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from service.engines.engine import EngineUnavailable, ModelKey
from service.engines.torchserve.leases import Leases

WINE, NEXT = ModelKey("wine", 1), ModelKey("wine", 2)


def test_the_last_one_who_gives_back_is_told_to_unregister(tmp_path: Path) -> None:
    one, other = Leases(tmp_path), Leases(tmp_path)
    one.take(WINE)
    other.take(WINE)
    other.take(WINE)
    assert one.give_back(WINE) == []
    assert one.siblings(NEXT) == [WINE]
    assert other.give_back(WINE) == [WINE]
    other.forget(WINE)
    assert other.siblings(NEXT) == []


def test_what_a_killed_process_used_is_unused(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from service.engines.engine import ModelKey; "
        "from service.engines.torchserve.leases import Leases; leases = Leases(Path(sys.argv[1])); "
        "leases.take(ModelKey('wine', 1)); print('taken', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    with process:
        assert process.stdout.readline() == b"taken\n"
        ours = Leases(tmp_path)
        ours.take(NEXT)
        assert ours.give_back(NEXT) == [NEXT]
        ours.forget(NEXT)
        process.kill()
    assert ours.give_back(NEXT) == [WINE]


async def test_only_one_changes_at_a_time(tmp_path: Path) -> None:
    events = []

    async def change(name: str, leases: Leases) -> None:
        async with leases.changing():
            events.append(("in", name))
            await asyncio.sleep(0)
            events.append(("out", name))

    await asyncio.gather(*(change(name, Leases(tmp_path)) for name in "abc"))
    assert len(events) == 6
    for entered, left in zip(events[::2], events[1::2], strict=True):
        assert (entered[0], left[0]) == ("in", "out")
        assert entered[1] == left[1]


async def test_a_folder_that_went_with_its_torchserve_is_an_outage(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="TorchServe's folder is gone"):
        async with Leases(tmp_path / "gone" / "leases").changing():
            pass
