"""What the table of qualities calls ahead, level and behind."""

from __future__ import annotations

import pytest
from quality.table import standing, verdict


def runs(model: str, *nlls: float | None) -> list[dict[str, object]]:
    return [{"table": "wine", "model": model, "seed": seed, "nll": nll} for seed, nll in enumerate(nlls)]


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ((0.010, 0.012, 0.008, 0.011, 0.009), "behind"),
        ((-0.010, -0.012, -0.008, -0.011, -0.009), "ahead"),
        # Ahead in the mean and in four of five, which chance does as well.
        ((-0.010, -0.012, -0.001, -0.030, 0.020), "level"),
    ],
)
def test_ahead_and_behind_are_beyond_the_interval_of_the_mean_difference(
    differences: tuple[float, ...], expected: str
) -> None:
    theirs = (1.0, 5.0, -2.0, 7.0, 3.0)
    ours = [value + difference for value, difference in zip(theirs, differences, strict=True)]
    taken = [*runs("flowmodel", *ours), *runs("worse", *(value + 1 for value in theirs)), *runs("best", *theirs)]
    peer, behind, interval = standing(taken, "wine", ["worse", "best"])
    assert peer == "best"
    assert behind == pytest.approx(sum(differences) / 5)
    assert verdict(behind, interval) == expected


def test_the_interval_is_students() -> None:
    taken = [*runs("flowmodel", 0.0, 1.0, 2.0), *runs("peer", 0.0, 0.0, 0.0)]
    # Two degrees of freedom: 4.303 standard errors of 1 / sqrt(3), from a printed table.
    assert standing(taken, "wine", ["peer"])[2] == pytest.approx(4.303 / 3**0.5, abs=1e-3)


def test_a_run_of_ours_that_is_not_finite_is_behind() -> None:
    taken = [*runs("flowmodel", 0.0, None), *runs("peer", 1.0, 1.0)]
    _, behind, interval = standing(taken, "wine", ["peer"])
    assert verdict(behind, interval) == "behind"
