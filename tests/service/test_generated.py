"""The committed protocol code is what the protocol file says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from service.generated.density.v1 import density_service_pb2 as pb

PROTOS = Path(__file__).parents[2] / "protos"


def test_the_committed_code_is_up_to_date() -> None:
    command = [sys.executable, str(PROTOS / "generate.py"), "--check"]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stderr == ""


def test_the_descriptor_has_its_canonical_name() -> None:
    assert pb.DESCRIPTOR.name == "density/v1/density_service.proto"
    assert pb.DESCRIPTOR.package == "density.v1"


def test_field_numbers_stay() -> None:
    numbers = {field.name: field.number for field in pb.SampleRequest.DESCRIPTOR.fields}
    assert numbers == {
        "model": 1,
        "version": 2,
        "count": 3,
        "seed": 4,
        "context": 5,
        "with_log_prob": 6,
        "start": 7,
    }
