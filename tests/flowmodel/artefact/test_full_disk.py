"""A disk that fills while a version is written: an error in time, and nothing of the version is left."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from flowmodel.artefact.store import ModelStore

PROGRAM = """
import resource, sys
import torch
import flowmodel, flowmodel.bijectors as bij, flowmodel.distributions as dist

base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(3), torch.ones(3)), 1)
flow = dist.Flow(base, bij.AffineAutoregressive())
limit, report_bytes = int(sys.argv[2]), int(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
flowmodel.publish(
    flow, sys.argv[1], "wine", report=lambda folder, manifest: (folder / "page.html").write_bytes(bytes(report_bytes))
)
"""


def publish(store, limit=0, report_bytes=1):
    command = [sys.executable, "-c", PROGRAM, str(store), str(limit), str(report_bytes)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("limit", "report_bytes", "text"), [(1000, 1, "scorer.pt: File too"), (200_000, 300_000, "store: File too")]
)
def test_a_file_that_cannot_be_written_to_its_end_is_an_error_and_nothing_is_left(tmp_path, limit, report_bytes, text):
    store = ModelStore(tmp_path / "store")
    assert publish(store.root).returncode == 0
    failed = publish(store.root, limit, report_bytes)
    assert failed.returncode == 1, failed.stderr
    assert text in failed.stderr.splitlines()[-1]
    assert store.versions("wine") == [1]
    assert [path.name for path in (store.root / "wine").iterdir()] == ["1"]
    store.open("wine").verify()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_full_disk_at_every_stage(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    reached = set()
    for kilobytes in (8, 52, 84, 4096):
        mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(disk)]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("this machine does not let us mount")
        try:
            answer = publish(disk / "store")
            if answer.returncode:
                assert "No space left on device" in answer.stderr.splitlines()[-1]
                assert not list(disk.rglob("*.*")), "nothing is left"
                reached |= {word for word in ("scorer", "weights", "archive") if f"the {word} " in answer.stderr}
            else:
                ModelStore(disk / "store").open("wine").verify()
                reached.add("published")
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    assert reached == {"scorer", "weights", "archive", "published"}
