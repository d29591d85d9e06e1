"""From a file to a published version and back to numbers, by the commands alone; a mistake ends with one line."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import subprocess
import sys

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn.datasets import load_breast_cancer

import flowmodel
from flowmodel.artefact.store import ModelStore
from flowmodel.cli import main

NAMES = ["mean radius", "mean texture", "mean smoothness"]


def run(*arguments, **environment):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env=environment)


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def write_csv(path, names, rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def cancer():
    table = load_breast_cancer()
    columns = [list(table.feature_names).index(name) for name in NAMES]
    return table.data[:, columns], table.target


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cancer):
    """A store with one model of three columns, and one of a column given another."""
    folder = tmp_path_factory.mktemp("cli")
    rows, target = cancer
    labelled = [[*row, "benign"] for row in rows[target == 1]]
    data = write_csv(folder / "benign.csv", [*NAMES, "diagnosis"], labelled)
    threads = torch.get_num_threads()
    common = ("--store", folder / "store", "--layers", 2, "--hidden", "16,16", "--max-epochs", 8)
    trained = run("train", data, "--model", "cells", "--columns", ",".join(NAMES), *common)
    assert trained.exit_code == 0, trained.output
    given = run("train", data, "--model", "given", "--columns", NAMES[1], "--context-columns", NAMES[0], *common)
    assert given.exit_code == 0, given.output
    torch.set_num_threads(threads)
    assert "Published cells version 1 in" in trained.stdout
    assert "test NLL" in trained.stdout
    assert "epoch 1 of at most 8" in trained.stderr
    return folder


@pytest.fixture
def store(folder):
    return folder / "store"


def test_the_artefact_is_whole_and_says_what_it_was_made_from(store):
    published = ModelStore(store).open("cells")
    published.verify()
    manifest = published.manifest
    assert manifest.feature_names == NAMES
    assert manifest.training["source"] == "benign.csv"
    assert len(manifest.training["fingerprint"]) == 64
    assert manifest.training["rows"] == {"train": 285, "validation": 36, "test": 36}
    assert manifest.training["epochs"] == 8
    for name in ("train_nll", "validation_nll", "test_nll", "test_bits_per_dimension"):
        assert np.isfinite(manifest.training[name])
    assert manifest.reference_log_prob["rows"] == 36
    for name in ("scorer.pt", "weights.safetensors", "cells-1.mar", "report/index.html"):
        assert name in manifest.files


def test_score_answers_what_the_eager_flow_does(folder, store, cancer):
    answer = run("score", "cells", folder / "benign.csv", "--store", store)
    assert answer.exit_code == 0
    scored = np.array([float(row["log_prob"]) for row in rows_of(answer.stdout)])
    flow = flowmodel.load(store / "cells" / "1")
    with torch.no_grad():
        eager = flow.log_prob(torch.from_numpy(cancer[0][cancer[1] == 1])).numpy()
    np.testing.assert_allclose(scored, eager, rtol=1e-4, atol=1e-4)


def test_score_matches_columns_by_name_and_npy_by_place(tmp_path, folder, store, cancer):
    rows = cancer[0][:5]
    by_name = write_csv(tmp_path / "t.csv", ["id", *reversed(NAMES)], [["x", *row[::-1]] for row in rows])
    np.save(tmp_path / "t.npy", rows)
    output = tmp_path / "out.csv"
    assert run("score", "cells", by_name, "--store", store, "--output", output).stdout == ""
    by_place = run("score", "cells", tmp_path / "t.npy", "--store", store).stdout
    assert output.read_text() == by_place
    np.save(tmp_path / "wide.npy", np.zeros((2, 4)))
    wide = run("score", "cells", tmp_path / "wide.npy", "--store", store)
    assert wide.exit_code == 1
    assert "4 columns; cells version 1 needs 3: mean radius, mean texture, mean smoothness" in wide.stderr


def test_a_bad_row_is_answered_alone(tmp_path, store):
    path = write_csv(tmp_path / "t.csv", NAMES, [[12, 18, 0.1], ["?", 18, 0.1], [12, "", 0.1], [13, 17, 0.09], [1, 2]])
    answer = run("score", "cells", path, "--store", store)
    assert answer.exit_code == 0
    rows = rows_of(answer.stdout)
    assert [row["row"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [np.isnan(float(row["log_prob"])) for row in rows] == [False, True, True, False, True]
    assert [bool(row["error"]) for row in rows] == [False, True, True, False, True]
    assert "row 2 (line 3), column 'mean radius': found the text '?'" in rows[1]["error"]
    assert "3 of 5 rows could not be scored" in answer.stderr


def test_sample_repeats_by_seed_and_its_log_prob_is_that_of_score(tmp_path, store):
    command = ("sample", "cells", "--count", 20, "--store", store, "--with-log-prob")
    first, again, other = (run(*command, "--seed", seed) for seed in (7, 7, 8))
    assert first.stdout == again.stdout != other.stdout
    rows = rows_of(first.stdout)
    assert list(rows[0]) == [*NAMES, "log_prob"]
    assert len(rows) == 20
    (tmp_path / "drawn.csv").write_text(first.stdout)
    scored = rows_of(run("score", "cells", tmp_path / "drawn.csv", "--store", store).stdout)
    # A sample is rounded to float32 after its log-density was taken.
    np.testing.assert_allclose(
        [float(row["log_prob"]) for row in scored], [float(row["log_prob"]) for row in rows], atol=1e-3
    )
    fewer = rows_of(run("sample", "cells", "--count", 5, "--store", store, "--seed", 7).stdout)
    assert [row[NAMES[0]] for row in fewer] == [row[NAMES[0]] for row in rows[:5]]


def test_sample_without_a_seed_says_which_it_took(store):
    first = run("sample", "cells", "--count", 2, "--store", store)
    seed = first.stderr.split()[1]
    assert run("sample", "cells", "--count", 2, "--store", store, "--seed", seed).stdout == first.stdout


def test_a_model_with_context(tmp_path, folder, store):
    scored = run("score", "given", folder / "benign.csv", "--store", store)
    assert scored.exit_code == 0
    assert all(np.isfinite(float(row["log_prob"])) for row in rows_of(scored.stdout))
    context = write_csv(tmp_path / "c.csv", [NAMES[0]], [[10], [14]])
    drawn = run("sample", "given", "--count", 3, "--seed", 1, "--context", context, "--store", store)
    assert [row[NAMES[0]] for row in rows_of(drawn.stdout)] == ["10.0"] * 3 + ["14.0"] * 3
    missing = run("sample", "given", "--count", 3, "--store", store)
    assert missing.exit_code == 1
    assert "given version 1 needs a context: give a file of mean radius by --context" in missing.stderr
    unwanted = run("sample", "cells", "--count", 3, "--context", context, "--store", store)
    assert "cells version 1 takes none" in unwanted.stderr


def test_models_lists_newest_and_versions(store):
    listed = run("models", "--store", store)
    assert listed.exit_code == 0
    lines = listed.stdout.splitlines()
    assert lines[0].split()[:2] == ["MODEL", "VERSION"]
    assert [line.split()[:2] for line in lines[1:]] == [["cells", "1"], ["given", "1"]]
    assert "1 + 1" in lines[2]
    assert len(run("models", "cells", "--store", store).stdout.splitlines()) == 2


def test_publish_puts_a_version_under_another_name_in_another_store(tmp_path, store):
    answer = run("publish", store / "cells" / "1", "--model", "copy", "--store", tmp_path / "other")
    assert answer.exit_code == 0, answer.output
    copy, source = ModelStore(tmp_path / "other").open("copy"), ModelStore(store).open("cells")
    copy.verify()
    assert copy.scorer_path.read_bytes() == source.scorer_path.read_bytes()
    assert copy.archive_path.name == "copy-1.mar"
    assert "cells-1.mar" not in copy.manifest.files
    assert copy.manifest.training == source.manifest.training
    assert run("publish", store / "cells" / "1", "--model", "copy", "--store", tmp_path / "other").exit_code == 0
    assert ModelStore(tmp_path / "other").versions("copy") == [1, 2]


def test_publish_refuses_what_is_damaged_or_answers_otherwise(tmp_path, store):
    run("publish", store / "cells" / "1", "--store", tmp_path / "a")
    version = tmp_path / "a" / "cells" / "1"
    manifest = json.loads((version / "manifest.json").read_text())
    manifest["self_check"]["log_prob"][0] += 1
    (version / "manifest.json").write_text(json.dumps(manifest))
    other = run("publish", version, "--store", tmp_path / "b")
    assert other.exit_code == 1
    assert "nats off those of its manifest" in other.stderr
    (version / "weights.safetensors").write_bytes(b"")
    damaged = run("publish", version, "--store", tmp_path / "b")
    assert damaged.exit_code == 1
    assert "weights.safetensors" in damaged.stderr
    assert ModelStore(tmp_path / "b").names() == []


def test_columns_too_large_for_float32_samples_are_named(tmp_path):
    rows = np.random.default_rng(0).normal((0, 1e9), 1, (60, 2))
    path = write_csv(tmp_path / "t.csv", ["near", "far"], rows.tolist())
    answer = run("train", path, "--model", "off", "--store", tmp_path, "--layers", 1, "--max-epochs", 1)
    assert answer.exit_code == 0, answer.output
    assert "Note: far: values are so large beside their spread" in answer.stderr


def test_options_can_be_variables(tmp_path, store):
    assert "cells" in run("models", FLOWMODEL_STORE=str(store)).stdout
    drawn = run("sample", "cells", FLOWMODEL_STORE=str(store), FLOWMODEL_COUNT="4", FLOWMODEL_SEED="3")
    assert len(rows_of(drawn.stdout)) == 4


GOOD = [[value, value**2 % 7, value % 5] for value in range(40)]


@pytest.mark.parametrize(
    ("names", "rows", "message"),
    [
        (["a", "b", "c"], [], "there are column names but no rows"),
        (["a", "b", "c"], [*GOOD[:5], [1, "text", 2]], "row 6 (line 7), column 'b': found the text 'text'"),
        (["a", "b", "c"], [*GOOD[:5], [1, 2, ""]], "row 6 (line 7), column 'c': found a missing value"),
        (["a", "b", "c"], [*GOOD[:5], [1, "nan", 2]], "row 6 (line 7), column 'b': found a missing value ('nan')"),
        (["a", "b", "c"], [*GOOD[:5], [1, 2]], "row 6 (line 7): found 2 cells, expected 3"),
        (
            ["a", "b", "c"],
            [[value, 4, value % 5] for value in range(40)],
            "column 'b' has one value, 4, in all 40 rows",
        ),
        (["a", "b", "c"], GOOD[1:3], "2 rows are fewer than needed for 3 dimensions"),
        (["a", "b", "a"], GOOD, "2 columns are called 'a' (columns 1, 3)"),
    ],
)
def test_bad_training_data_ends_with_one_line_and_publishes_nothing(tmp_path, names, rows, message):
    path = write_csv(tmp_path / "t.csv", names, rows)
    answer = run("train", path, "--model", "bad", "--store", tmp_path / "store")
    assert answer.exit_code == 1
    assert answer.stderr.startswith(f"Error: {path}")
    assert message in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert ModelStore(tmp_path / "store").names() == []


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("train", "absent.csv", "--model", "m"), 1, "absent.csv: there is no such file"),
        (("train", "absent.csv", "--model", "No Name"), 1, "model name 'No Name' given"),
        (("train", "absent.csv", "--model", "m", "--seed", str(2**64)), 2, "is not in the range 0<=x<="),
        (("train", "absent.csv"), 2, "Missing option '--model'"),
        (("train", "absent.csv", "--model", "m", "--hidden", "8,x"), 2, "'8,x' given; expected whole numbers above 0"),
        (("train", "absent.csv", "--model", "m", "--columns", "a,,b"), 2, "'a,,b' holds an empty name"),
        (("train", "absent.csv", "--model", "m", "--test", "1.5"), 2, "1.5 is not between 0 and 1"),
        (("score", "absent", "t.csv"), 1, "'absent'"),
        (("sample", "cells", "--count", "0"), 2, "0 is not in the range x>=1"),
        (("sample", "cells", "--count", "1", "--version", "9"), 1, "no version 9"),
        (("models", "absent"), 1, "'absent'"),
        (("publish", "absent/1"), 1, "absent/1: no published version"),
        (("unknown",), 2, "No such command 'unknown'"),
        (("sample", "cells", "--count", "1", "--seed", "1", "--output", "no/such/dir/x.csv"), 1, "no/such/dir/x.csv"),
        (
            ("sample", "cells", "--count", "1", "--output", "x.parquet"),
            2,
            "x.parquet: CSV is written; expected a name such as x.csv",
        ),
    ],
)
def test_mistakes_end_with_their_status_and_no_traceback(store, arguments, status, message):
    answer = run(*arguments, FLOWMODEL_STORE=str(store))
    assert answer.exit_code == status
    assert message in answer.stderr
    assert isinstance(answer.exception, SystemExit)


def test_a_column_cannot_be_feature_and_context(folder):
    answer = run("train", folder / "benign.csv", "--model", "m", "--columns", NAMES[0], "--context-columns", NAMES[0])
    assert answer.exit_code == 1
    assert "column 'mean radius' is asked for as feature and as context" in answer.stderr


class Added:
    """An entry point as `importlib.metadata` gives them."""

    name = "added"

    def __init__(self, load):
        self.load = load


@pytest.mark.parametrize("available", [True, False])
def test_commands_of_other_packages_are_loaded_when_asked_for(monkeypatch, available):
    def load():
        if not available:
            raise ImportError("No module named 'grpc'")
        return click.Command("added", callback=lambda: click.echo("added ran"))

    points = [Added(load)]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: points)
    answer = run("added")
    if available:
        assert answer.stdout == "added ran\n"
    else:
        assert answer.exit_code == 1
        assert "added needs a package that is not installed (No module named 'grpc')" in answer.stderr
    assert "added" in run("--help").stdout


def test_version():
    assert run("--version").stdout == f"flowmodel, version {flowmodel.__version__}\n"


def test_listing_models_does_not_wait_for_torch(store):
    program = "import sys; from flowmodel.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    command = [sys.executable, "-c", program, "models", "--store", str(store)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "False"
