"""A disk that fills while a version is written: an error in time, and nothing of the version is left."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import pytest

from flowmodel.artefact.store import ModelStore

PROGRAM = """
import json, resource, sys
import torch
import flowmodel, flowmodel.bijectors as bij, flowmodel.distributions as dist
from flowmodel.errors import ArtefactError, ExportError

base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(3), torch.ones(3)), 1)
flow = dist.Flow(base, bij.AffineAutoregressive())
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
for store, limit, report_bytes in json.loads(sys.argv[1]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit or most, most))
    try:
        flowmodel.publish(
            flow, store, "wine", report=lambda folder, manifest: (folder / "page.html").write_bytes(bytes(report_bytes))
        )
    except (ArtefactError, ExportError) as error:
        print(json.dumps(str(error)), flush=True)
    else:
        print("null", flush=True)
"""


def publish(*attempts):
    """What each attempt to publish ended with, in a process of its own: an error's text, or None.

    Args:
        attempts: the store, the largest file that may be written (0 for any), and the bytes of the report.
    """
    command = [sys.executable, "-c", PROGRAM, json.dumps([(str(store), *sizes) for store, *sizes in attempts])]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_a_file_that_cannot_be_written_to_its_end_is_an_error_and_nothing_is_left(tmp_path):
    stores = [ModelStore(tmp_path / name) for name in ("scorer", "report")]
    small, large = (store.root for store in stores)
    first, scorer, second, report = publish((small, 0, 1), (small, 1000, 1), (large, 0, 1), (large, 200_000, 300_000))
    assert (first, second) == (None, None)
    assert "scorer.pt: File too" in scorer
    assert f"cannot write {large}: File too" in report
    for store in stores:
        assert store.versions("wine") == [1]
        assert [path.name for path in (store.root / "wine").iterdir()] == ["1"]
        store.open("wine").verify()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_full_disk_at_every_stage(tmp_path):
    with contextlib.ExitStack() as mounted:
        disks = []
        for kilobytes in (8, 52, 84, 4096):
            disks.append(tmp_path / str(kilobytes))
            disks[-1].mkdir()
            mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(disks[-1])]
            if subprocess.run(mount, capture_output=True).returncode:
                pytest.skip("this machine does not let us mount")
            mounted.callback(subprocess.run, ["umount", str(disks[-1])], check=True)
        *errors, whole = publish(*((disk / "store", 0, 1) for disk in disks))
        assert whole is None
        ModelStore(disks[-1] / "store").open("wine").verify()
        for error, disk, part in zip(errors, disks[:-1], ("scorer", "weights", "archive"), strict=True):
            assert f"the {part} " in error
            assert "No space left on device" in error
            assert not list(disk.rglob("*.*")), "nothing is left"
