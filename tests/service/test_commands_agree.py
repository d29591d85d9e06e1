"""A question about no version: the service and the commands answer it with the same one."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import FEATURES, Start

from flowmodel.artefact.rollout import Rollout
from flowmodel.artefact.store import ModelStore
from flowmodel.cli import main
from service.client import DensityClient


@pytest.mark.parametrize(
    ("choose", "version"),
    [
        pytest.param(lambda rollout: None, 2, id="newest"),
        pytest.param(lambda rollout: rollout.default(1), 1, id="chosen"),
        pytest.param(lambda rollout: (rollout.default(1), rollout.rollback()), 2, id="rolled back"),
        pytest.param(lambda rollout: rollout.retire(2, force=True), 1, id="retired"),
    ],
)
def test_score_and_sample_answer_as_the_service(
    start: Start, store: Path, rows: np.ndarray, tmp_path: Path, choose: Callable[[Rollout], object], version: int
) -> None:
    choose(Rollout(ModelStore(store), "wine"))
    np.save(tmp_path / "rows.npy", rows)
    scored = _columns("score", "wine", tmp_path / "rows.npy", "--store", store)["log_prob"]
    drawn = _columns("sample", "wine", "--count", 5, "--seed", 3, "--store", store)
    with DensityClient(start(store).grpc) as client:
        score, sample = client.score("wine", rows), client.draw("wine", 5, seed=3)
    assert score.version == sample.version == str(version)
    np.testing.assert_array_equal(scored, score.log_prob)
    np.testing.assert_array_equal(np.stack([drawn[name] for name in FEATURES], axis=1), sample.samples)


def _columns(*command: object) -> dict[str, np.ndarray]:
    answer = CliRunner().invoke(main, [str(word) for word in command])
    assert answer.exit_code == 0, answer.output
    records = list(csv.DictReader(io.StringIO(answer.stdout)))
    return {name: np.array([record[name] for record in records if record[name]], np.float32) for name in records[0]}
