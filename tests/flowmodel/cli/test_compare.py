"""Two published versions beside each other: the numbers are those of closed forms, and mistakes are named."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from flows import trained_flow

import flowmodel
import flowmodel.bijectors as bij
import flowmodel.distributions as dist
from flowmodel.cli import main
from flowmodel.cli.compare import paired_difference


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def gaussian(location, scale):
    """A flow that is exactly a diagonal Gaussian, in float64."""
    base = torch.distributions.Normal(
        torch.tensor(location, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64)
    )
    return dist.Flow(torch.distributions.Independent(base, 1), bij.Permute(permutation=(0, 1)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    store = folder / "store"
    flowmodel.publish(gaussian([0.0, 0.0], [1.0, 1.0]), store, "g", feature_names=["x", "y"])
    flowmodel.publish(gaussian([1.0, 0.0], [1.0, 2.0]), store, "g", feature_names=["x", "y"])
    flowmodel.publish(gaussian([0.0, 1.0], [2.0, 1.0]), store, "turned", feature_names=["y", "x"])
    flowmodel.publish(gaussian([0.0, 1.0], [2.0, 1.0]), store, "other", feature_names=["y", "z"])
    square = torch.distributions.Uniform(-torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    box = dist.Flow(torch.distributions.Independent(square, 1), bij.Permute(permutation=(0, 1)))
    flowmodel.publish(box, store, "box", feature_names=["x", "y"])
    rows = np.random.default_rng(0).standard_normal((200, 2))
    np.savetxt(folder / "rows.csv", rows, delimiter=",", header="x,y", comments="", fmt="%.17g")
    np.save(folder / "rows.npy", rows)
    return folder, rows


def expected_difference(rows):
    """log N(x; 1, 1) N(y; 0, 2) - log N(x; 0, 1) N(y; 0, 1)."""
    x, y = rows.T
    return x - 0.5 - np.log(2) + y**2 / 2 - y**2 / 8


@pytest.mark.parametrize("second", ["g/2", "g", "turned"])
def test_the_difference_is_that_of_two_gaussians_whatever_the_order_of_columns(folder, second):
    folder, rows = folder
    output = folder / "out.csv"
    answer = run("compare", "g/1", second, folder / "rows.csv", "--store", folder / "store", "--output", output)
    assert answer.exit_code == 0, answer.output
    written = [float(row["difference"]) for row in csv.DictReader(output.read_text().splitlines())]
    difference = expected_difference(rows)
    np.testing.assert_allclose(written, difference, rtol=0, atol=1e-12)
    error = difference.std(ddof=1) / np.sqrt(200)
    assert f"on the 200 rows finite under both: {difference.mean():+.6g} nats, standard error {error:.3g}" in (
        answer.stdout
    )
    assert f"row {np.abs(difference).argmax() + 1}:" in answer.stdout.split("Rows that differ most:")[1].splitlines()[1]
    assert f"B is higher on {100 * (difference > 0).mean():.1f} %" in answer.stdout
    assert "g/1 describes these rows better" in answer.stdout


def test_paired_difference_counts_only_rows_finite_under_both():
    a = np.array([0.0, 1.0, 2.0, -np.inf, np.nan, 5.0])
    b = np.array([1.0, 1.5, 1.0, 3.0, 2.0, -np.inf])
    paired = paired_difference(a, b)
    assert (paired.rows, paired.mean) == (3, pytest.approx(1 / 6))
    assert paired.standard_error == pytest.approx(np.std([1, 0.5, -1], ddof=1) / np.sqrt(3))
    assert paired.share_better == pytest.approx(2 / 3)
    assert paired_difference(a[:0], b[:0]).rows == 0


def test_density_zero_makes_a_mean_of_minus_infinity_and_says_so(folder):
    folder, rows = folder
    outside = int((np.abs(rows) > 1).any(1).sum())
    answer = run("compare", "g/1", "box", folder / "rows.npy", "--store", folder / "store")
    assert answer.exit_code == 0, answer.output
    mean = next(line.split() for line in answer.stdout.splitlines() if line.startswith("mean log-density"))
    assert mean[-1] == "-inf"
    assert f"box/1 holds {outside} rows to be impossible (log-density -inf) that the other does not." in answer.stdout
    assert f"on the {200 - outside} rows finite under both" in answer.stdout
    assert f"Verdict: g/1 describes these rows better: box/1 gives {outside} of them density zero." in answer.stdout


def test_a_version_beside_itself_is_not_told_apart(folder):
    folder, _ = folder
    answer = run("compare", "g", "g/2", folder / "rows.npy", "--store", folder / "store")
    assert "do not tell the two apart" in answer.stdout


def test_rows_that_cannot_be_scored_are_left_out_and_counted(folder, tmp_path):
    (tmp_path / "rows.csv").write_text("x,y\n1,2\n?,3\n0,1\n")
    answer = run("compare", "g/1", "g/2", tmp_path / "rows.csv", "--store", folder[0] / "store")
    assert answer.exit_code == 0, answer.output
    assert "1 of 3 rows hold no usable values and were left out." in answer.stdout
    assert "on the 2 rows finite under both" in answer.stdout


@pytest.mark.parametrize(
    ("a", "b", "data", "message"),
    [
        ("g", "other", "rows.csv", "g version 2 lacks 'z'; other version 1 lacks 'x'"),
        ("g", "turned", "rows.npy", "take their columns in different orders"),
        ("g/9", "g", "rows.csv", "no version 9"),
        ("g/new", "g", "rows.csv", "'g/new' given; expected NAME or NAME/VERSION"),
        ("absent", "g", "rows.csv", "no model 'absent'"),
        ("g", "g/1", "absent.csv", "there is no such file"),
    ],
)
def test_mistakes_are_named(folder, a, b, data, message):
    folder, _ = folder
    answer = run("compare", a, b, folder / data, "--store", folder / "store")
    assert answer.exit_code == 1
    assert message in answer.stderr


def test_a_conditional_model_reads_its_context_from_the_same_file(tmp_path):
    flow = trained_flow(bij.Invert(bij.AffineAutoregressive()), (2,), (1,))
    store, output = tmp_path / "store", tmp_path / "out.csv"
    flowmodel.publish(flow, store, "given", feature_names=["y", "x"], context_names=["age"])
    flowmodel.publish(gaussian([1.0, 0.0], [1.0, 2.0]), store, "plain", feature_names=["x", "y"])
    rows = np.random.default_rng(0).normal(0, 1, (50, 3))
    np.savetxt(tmp_path / "rows.csv", rows, delimiter=",", header="age,x,y", comments="", fmt="%.17g")
    x, y, age = rows[:, 1], rows[:, 2], torch.from_numpy(rows[:, :1])
    with torch.no_grad():
        conditional = flow.log_prob(torch.from_numpy(rows[:, [2, 1]]), age).numpy()
        turned = flow.log_prob(torch.from_numpy(rows[:, [2, 1]]), age.flip(0)).numpy()
    assert np.abs(conditional - turned).max() > 0.1
    plain = -0.5 * ((x - 1) ** 2 + (y / 2) ** 2) - np.log(2 * np.pi * 2)
    for a, b, expected in (("given", "plain", plain - conditional), ("plain", "given", conditional - plain)):
        answer = run("compare", a, b, tmp_path / "rows.csv", "--store", store, "--output", output)
        assert answer.exit_code == 0, answer.output
        written = [float(row["difference"]) for row in csv.DictReader(output.read_text().splitlines())]
        np.testing.assert_allclose(written, expected, rtol=0, atol=1e-9)
    np.savetxt(tmp_path / "without.csv", rows[:, 1:], delimiter=",", header="x,y", comments="")
    refused = run("compare", "given", "plain", tmp_path / "without.csv", "--store", store)
    assert refused.exit_code == 1
    assert "'age'" in refused.stderr
