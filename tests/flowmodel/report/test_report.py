"""The report: complete, self-contained, and right about what it shows."""

from __future__ import annotations

import re

import numpy as np
import torch
from flows import PLANS, normal

import flowmodel
import flowmodel.distributions as dist
from flowmodel.report import write_report
from flowmodel.report.figures import telling_columns


def test_report_is_one_page_with_its_pictures(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 3)) * [1, 5, 0.1] + [0, 100, -3]
    flow = dist.Flow(normal((3,), torch.float32), PLANS["preprocessed"])
    result = flowmodel.fit(flow, rows, max_epochs=3, seed=0)
    log_prob = flow.log_prob(torch.as_tensor(rows)).detach().double().numpy()

    def report(folder, manifest):
        samples = flow.sample((300,)).double().numpy()
        parts = {"training": log_prob[:200], "held out": log_prob[200:]}
        write_report(folder, manifest, result, data=rows, samples=samples, log_prob=parts)

    names = ["<b>bold</b>", "weight", "age"]
    published = flowmodel.publish(
        flow, tmp_path, "wine", feature_names=names, rows=rows, training=result.summary(), report=report
    )
    folder = published.path / "report"
    assert {path.name for path in folder.iterdir()} == {"index.html", "loss.png", "samples.png", "log_density.png"}
    assert "report/index.html" in published.manifest.files
    page = (folder / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    # Self-contained: it fetches nothing; and names from a data file are text, never markup.
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "<b>bold</b>" not in page
    assert f"{result.best.validation_nll:.4g}" in page
    assert all((folder / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in ("loss", "samples"))


def test_columns_that_depend_on_others_are_shown():
    rng = np.random.default_rng(0)
    data = rng.standard_normal((500, 10))
    data[:, 7] = data[:, 2] ** 3 + 0.1 * rng.standard_normal(500)
    chosen = telling_columns(data)
    assert len(chosen) == 6
    assert {2, 7} <= set(chosen)
    assert telling_columns(data[:, :4]) == [0, 1, 2, 3]
