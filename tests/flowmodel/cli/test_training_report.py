"""The report of a trained model: for tables and chunks, with contexts and supports, and never the end of a training."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import flowmodel.cli.training_report
from flowmodel.artefact.store import ModelStore
from flowmodel.cli import main

SHORT = ("--layers", "2", "--hidden", "16,16", "--max-epochs", "2", "--model", "m")


def train(*arguments):
    return CliRunner().invoke(main, ["train", *(str(argument) for argument in arguments), *SHORT])


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Two hundred rows of five kinds of columns; row 100 is far from all others."""
    rng = np.random.default_rng(0)
    count = 200
    columns = {
        "hour": rng.uniform(0, 24, count),
        "heading": (90 + 40 * rng.standard_normal(count)) % 360,
        "number": rng.poisson(3, count).astype(float),
        "share": rng.beta(2, 5, count),
        "price": np.exp(rng.standard_normal(count)),
    }
    columns["price"][99] = 1e4
    path = tmp_path_factory.mktemp("table") / "table.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def page_of(store):
    return (ModelStore(store).open("m").path / "report" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("how", [(), ("--chunk-rows", 64)], ids=["table", "chunks"])
def test_contexts_and_supports_of_a_table_and_of_chunks(tmp_path, table, how):
    supports = ("--periodic", "heading=0:360", "--integer", "number", "--bounded", "share=0:1", "--positive", "price")
    run = train(table, "--context-columns", "hour", *supports, "--test", 0.5, "--store", tmp_path, *how)
    assert run.exit_code == 0, run.output
    page = page_of(tmp_path)
    assert "could not be made" not in page
    for expected in (
        "hour (given)",
        "on the circle",
        "whole numbers",
        "training time",
        "log_prob(&#34;m&#34;, rows, context)",
    ):
        assert expected in page, expected
    assert page.count("<figure>") == 3 + 4


@pytest.mark.parametrize("how", [(), ("--chunk-rows", 512)], ids=["table", "chunks"])
def test_a_row_is_called_by_its_number_in_the_file(tmp_path, table, how):
    chosen = ("--columns", "share,price", "--positive", "price", "--test", 0.8)
    run = train(table, *chosen, "--store", tmp_path, *how)
    assert run.exit_code == 0, run.output
    least = re.search(r"Least likely held-out rows.*?<tbody>\s*<tr>(.*?)</tr>", page_of(tmp_path), re.DOTALL).group(1)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", least)
    assert (cells[0], cells[2]) == ("100", "price")


def test_a_report_that_fails_is_a_note_and_the_model_is_published(tmp_path, table, monkeypatch):
    def broken(*arguments, **options):
        raise MemoryError("no room")

    monkeypatch.setattr(flowmodel.cli.training_report, "write_report", broken)
    run = train(table, "--columns", "share,price", "--store", tmp_path)
    assert run.exit_code == 0, run.output
    assert "Note: there is no report, for it failed (MemoryError: no room)." in run.stderr
    ModelStore(tmp_path).open("m").verify()
