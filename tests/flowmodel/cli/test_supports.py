"""Supports by the commands alone: declared, guessed, refused; scored and sampled within them."""

from __future__ import annotations

import csv
import io
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from flowmodel.artefact.store import ModelStore
from flowmodel.artefact.weights import load
from flowmodel.cli import main
from flowmodel.runtime.scoring import Scorer

NAMES = ["price", "share", "visits", "heading"]


def run(*arguments, **environment):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env=environment)


def write_csv(path, names, rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)
    return path


def columns_of(text):
    rows = list(csv.DictReader(io.StringIO(text)))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name != "error"}


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    price = random.lognormal(0, 0.8, 600)
    visits = random.poisson(1 + price / 2)
    share = random.beta(2, 3, 600)
    return np.column_stack([price, share, visits, np.mod(350 + 30 * random.normal(size=600), 360)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("supports")
    write_csv(folder / "data.csv", NAMES, rows)
    threads = torch.get_num_threads()
    arguments = ("--model", "shop", "--store", folder / "store", "--layers", 2, "--hidden", "16,16", "--max-epochs", 6)
    trained = run("train", folder / "data.csv", *arguments, "--bounded", "share=0:1", "--periodic", "heading=0:360")
    torch.set_num_threads(threads)
    assert trained.exit_code == 0, trained.output
    assert "Note: column price is taken for numbers above 0 (" in trained.stderr
    assert "overrule it by --real price." in trained.stderr
    assert "Note: column visits is taken for whole numbers from 0 (" in trained.stderr
    return folder


def test_the_manifest_names_supports_and_cuts(folder):
    supports = ModelStore(folder / "store").open("shop").manifest.preprocessing["supports"]
    cut = supports["heading"].pop("cut")
    assert supports == {
        "price": {"plan": "Positive"},
        "share": {"plan": "Bounded", "low": 0.0, "high": 1.0},
        "visits": {"plan": "Integer", "low": 0, "high": None},
        "heading": {"plan": "Periodic", "low": 0.0, "period": 360.0},
    }
    assert 60 < cut < 280


def test_samples_lie_in_their_supports(folder):
    drawn = run("sample", "shop", "--count", 2000, "--seed", 3, "--with-log-prob", "--store", folder / "store")
    assert drawn.exit_code == 0, drawn.output
    columns = columns_of(drawn.stdout)
    assert columns["price"].min() > 0
    assert 0 < columns["share"].min() < columns["share"].max() < 1
    assert np.array_equal(columns["visits"], np.round(columns["visits"]))
    assert columns["visits"].min() == 0
    assert 0 <= columns["heading"].min() < 20 < 340 < columns["heading"].max() < 360
    assert np.isfinite(columns["log_prob"]).all()
    write_csv(folder / "samples.csv", NAMES, np.column_stack([columns[name] for name in NAMES]))
    scored = run("score", "shop", folder / "samples.csv", "--store", folder / "store")
    np.testing.assert_allclose(columns_of(scored.stdout)["log_prob"], columns["log_prob"], atol=1e-3)


def test_a_row_outside_is_scored_minus_infinity_and_is_no_error(folder):
    outside = [[1, 0.5, 2, 10], [-1, 0.5, 2, 10], [1, 1, 2, 10], [1, 0.5, -1, 10], [1, 0.5, 2, 730]]
    data = write_csv(folder / "outside.csv", NAMES, outside)
    scored = run("score", "shop", data, "--store", folder / "store")
    assert scored.exit_code == 0, scored.output
    log_prob = columns_of(scored.stdout)["log_prob"]
    assert (log_prob[1:4] == -np.inf).all()
    # Two whole turns further is the same place.
    assert log_prob[4] == log_prob[0]


def test_the_published_density_sums_to_one_over_all_rows_there_can_be(folder):
    scorer = Scorer.load(ModelStore(folder / "store").open("shop").scorer_path)
    random = np.random.default_rng(1)
    # Importance sampling from a wide density: lognormal, uniform, geometric, uniform.
    count = 200_000
    price = random.lognormal(0, 1.5, count)
    visits = random.geometric(0.2, count) - 1
    share, heading = random.uniform(0, 1, count), random.uniform(0, 360, count)
    proposal = -np.log(price * 1.5 * np.sqrt(2 * np.pi)) - 0.5 * (np.log(price) / 1.5) ** 2
    proposal += np.log(0.2) + visits * np.log(0.8) - np.log(360)

    def total(cells):
        log_prob = scorer.log_prob(np.column_stack([price, share, cells, heading])).astype(float)
        weights = np.exp(log_prob - proposal)
        assert weights.std() / count**0.5 < 0.01
        return weights.mean()

    # Five standard errors.
    assert abs(total(visits + random.uniform(-0.5, 0.5, count)) - 1) < 0.05
    # The midpoint rule is off where the density bends within a cell, here in the first.
    assert abs(total(visits) - 1) < 0.15


def test_a_loaded_flow_has_the_cut_of_the_published_one(folder, rows):
    published = ModelStore(folder / "store").open("shop")
    flow = load(published.path)
    expected = Scorer.load(published.scorer_path).log_prob(rows[:50])
    with torch.no_grad():
        actual = flow.log_prob(torch.from_numpy(rows[:50])).numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--positive", "prise"), "there is no column 'prise'; the nearest are 'price'"),
        (("--positive", "price", "--real", "price"), "column 'price' was declared by --positive and --real"),
        (("--positive", "visits"), "data.csv: row .*, column 'visits': found 0, expected numbers above 0"),
        (("--bounded", "share=0:0.5"), "column 'share': found .*, expected numbers between, not at, 0 and 0.5"),
        (("--integer", "price"), "column 'price': found .*, expected whole numbers"),
        (("--real", "share", "--context-columns", "share"), "column 'share' is a context, which has no support"),
        (("--bounded", "share"), "'share' has no range; expected NAME=LOW:HIGH, such as share=0:1"),
        (("--bounded", "share=0"), "'share=0' given; expected NAME=LOW:HIGH"),
        (("--bounded", "share=1:0"), "Bounded: low=1, high=0 given; expected low below high"),
        (("--periodic", "heading=0:"), "'heading=0:' given; expected NAME=LOW:HIGH"),
        (("--positive", "price,,share"), "holds an empty name; expected a,b"),
        (("--real", "price,price"), "names 'price' twice"),
        (("--supports", "guess"), "'guess' is not one of 'infer', 'declared'"),
    ],
)
def test_a_mistake_ends_with_its_line(folder, options, text):
    refused = run("train", folder / "data.csv", "--model", "shop", "--store", folder / "store", *options)
    assert refused.exit_code != 0
    assert re.search(text, " ".join(refused.output.split())), refused.output


def test_variables_say_the_same_and_nothing_is_guessed_when_told_not_to(tmp_path, rows):
    data = write_csv(tmp_path / "data.csv", NAMES, rows)
    threads = torch.get_num_threads()
    arguments = ("--model", "shop", "--store", tmp_path / "store", "--layers", 1, "--hidden", "8", "--max-epochs", 1)
    trained = run(
        "train",
        data,
        *arguments,
        FLOWMODEL_SUPPORTS="declared",
        FLOWMODEL_INTEGER="visits=0:99",
        FLOWMODEL_REAL="share",
    )
    torch.set_num_threads(threads)
    assert trained.exit_code == 0, trained.output
    assert "taken for" not in trained.stderr
    supports = ModelStore(tmp_path / "store").open("shop").manifest.preprocessing["supports"]
    assert supports["visits"] == {"plan": "Integer", "low": 0, "high": 99}
    assert {supports[name]["plan"] for name in ("price", "share", "heading")} == {"Real"}


def test_dependent_columns_and_repeated_values_are_noted(tmp_path):
    random = np.random.default_rng(0)
    a, rain = random.normal(size=300), np.where(random.uniform(size=300) < 0.4, 0.0, random.normal(size=300))
    data = write_csv(tmp_path / "data.csv", ["a", "rain", "twice"], np.column_stack([a, rain, 2 * a + 1]))
    threads = torch.get_num_threads()
    arguments = ("--model", "wet", "--store", tmp_path / "store", "--layers", 1, "--hidden", "8", "--max-epochs", 1)
    trained = run("train", data, *arguments)
    torch.set_num_threads(threads)
    assert "Note: column twice follows from a (up to " in trained.stderr
    assert "leave out twice." in trained.stderr
    assert re.search(r"Note: column rain is exactly 0 in [34]\d% of the rows", trained.stderr)
    assert "--integer rain." in trained.stderr


def test_supports_learnt_from_chunks_are_those_of_the_published_scorer(tmp_path, rows):
    columns = dict(zip(NAMES, rows.T, strict=True)) | {"day": np.arange(600) % 7.0}
    pq.write_table(pa.table(columns), tmp_path / "data.parquet", row_group_size=100)
    threads = torch.get_num_threads()
    declared = ("--bounded", "share=0:1", "--periodic", "heading=0:360", "--context-columns", "day")
    size = ("--layers", 2, "--hidden", "16,16", "--max-epochs", 3, "--chunk-rows", 128)
    trained = run(
        "train", tmp_path / "data.parquet", "--model", "shop", "--store", tmp_path / "store", *declared, *size
    )
    torch.set_num_threads(threads)
    assert trained.exit_code == 0, trained.output
    published = ModelStore(tmp_path / "store").open("shop")
    kinds = {name: support["plan"] for name, support in published.manifest.preprocessing["supports"].items()}
    assert kinds == dict(zip(NAMES, ("Positive", "Bounded", "Integer", "Periodic"), strict=True))
    # The guess and the cut come from chunks: the circle is cut on the side that the headings about 350 leave empty.
    assert 60 < published.manifest.preprocessing["supports"]["heading"]["cut"] < 280
    run("score", "shop", tmp_path / "data.parquet", "--store", tmp_path / "store", "--output", tmp_path / "out.csv")
    scored = columns_of((tmp_path / "out.csv").read_text())["log_prob"]
    flow = load(published.path)
    with torch.no_grad():
        eager = flow.log_prob(torch.from_numpy(rows), torch.from_numpy(columns["day"])[:, None]).numpy()
    np.testing.assert_allclose(scored, eager, rtol=1e-4, atol=1e-4)
    assert np.isfinite(scored).all()
