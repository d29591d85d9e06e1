"""The page: complete, self-contained, escaped, and made of whatever a flow and its rows may be."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from bases import BASES, base
from flows import PLANS, normal, trained_flow

import flowmodel
import flowmodel.bijectors as bij
import flowmodel.distributions as dist
from flowmodel.errors import ShapeMismatchError
from flowmodel.report import report_of, write_report
from flowmodel.report.page import _guarded
from flowmodel.training.history import Epoch, FitResult

VOID = {"meta", "br", "link", "img", "input", "hr"}
SECTIONS = ["log-density", "samples", "calibration", "rows", "card"]


class Page(HTMLParser):
    """A page read strictly: every element is closed where it should be, and text and attributes are kept."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        for svg in re.findall(r"<svg viewBox.*?</svg>(?=\s*</figure>)", html, re.DOTALL):
            ElementTree.fromstring(svg)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def section(self, key: str) -> bool:
        return any(tag == "section" and attributes.get("id") == key for tag, attributes in self.elements)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def whole(html: str, *, sections: list[str] = SECTIONS) -> Page:
    """The page, after what every page must be was checked."""
    page = Page(html)
    assert [attributes["id"] for tag, attributes in page.elements if tag == "section"] == sections
    assert "could not be made" not in page.text
    assert len(html) < 2_000_000
    assert not re.search(r"\b(nan|None|Traceback)\b", page.text)
    for tag, attributes in page.elements:
        assert tag not in {"script", "link", "img", "iframe", "object"}
        for name, value in attributes.items():
            assert name not in {"src", "srcset", "data"}
            assert name != "href" or value.startswith("#")
    assert "@import" not in html
    assert "url(" not in html
    return page


def standard(size: int, **given) -> dist.Flow:
    return dist.Flow(normal((size,)), bij.AffineFixed(), **given)


def test_a_published_model_has_everything(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 3)) * [1, 5, 0.1] + [0, 100, -3]
    flow = dist.Flow(normal((3,), torch.float32), PLANS["preprocessed"])
    result = flowmodel.fit(flow, rows, max_epochs=3, seed=0)
    names = ["<b>bold</b>", "weight & 'height'", "age" * 60]

    def report(folder, manifest):
        write_report(folder, flow, rows[200:], training_rows=rows[:200], result=result, manifest=manifest)

    training = {**result.summary(), "source": "<i>wine</i>.csv", "seconds": 75.0}
    published = flowmodel.publish(
        flow, tmp_path, "wine", feature_names=names, rows=rows[200:], training=training, report=report
    )
    folder = published.path / "report"
    assert {path.name for path in folder.iterdir()} == {"index.html"}
    assert "report/index.html" in published.manifest.files
    html = (folder / "index.html").read_text(encoding="utf-8")
    page = whole(html, sections=["training", *SECTIONS])
    # Names from a data file are text, never markup.
    assert "<b>bold" not in html
    assert "<i>wine" not in html
    assert "<b>bold</b>" in page.text
    assert "<i>wine</i>.csv" in page.text
    log_prob = flow.log_prob(torch.as_tensor(rows[200:])).detach().double().numpy()
    assert f"{-log_prob.mean():.4g} ± {log_prob.std(ddof=1) / 10:.2g}" in page.text
    for expected in (
        f"kept: epoch {result.best_epoch}",
        f"validation NLL {result.best.validation_nll:.4g}",
        "1 min 15 s",
        "/v1/models/wine:logProb",
        'client.log_prob("wine", rows)',
        "Standardize()",
        "float32",
        "self check",
    ):
        assert expected in page.text, expected


def test_a_flow_and_rows_are_enough():
    rows = torch.randn(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    page = whole(report_of(standard(2), rows, feature_names=["a", "b"], title="<mine>"))
    assert "<mine>" in page.text
    assert "curl" not in page.text
    assert "2 of 2 dimensions calibrated" in page.text


def test_a_model_of_the_wrong_scale_is_told_from_a_right_one():
    rows = torch.randn(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert "0 of 3 dimensions leave the band" in whole(report_of(standard(3), rows)).text
    assert "3 of 3 dimensions leave the band" in whole(report_of(standard(3), 2 * rows)).text


def test_the_least_likely_row_is_named_with_its_number_and_column():
    rows = np.random.default_rng(0).standard_normal((100, 3))
    rows[41, 1] = 12.0
    html = report_of(standard(3), rows, feature_names=["a", "broken", "c"], row_numbers=np.arange(1000, 1100))
    least = re.search(r"Least likely held-out rows.*?<tbody>\s*<tr>(.*?)</tr>", html, re.DOTALL).group(1)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", least)
    assert cells[0] == "1041"
    assert cells[2] == "broken"
    assert re.search(r'<td class="number marked">12</td>', least)


@pytest.mark.parametrize("size", [1, 2, 7, 200])
def test_any_number_of_columns(size):
    rows = np.random.default_rng(0).standard_normal((150, size))
    page = whole(report_of(standard(size), rows, training_rows=rows[::-1], samples=500))
    assert ("the 12 worst of 200" in page.text) == (size == 200)


def test_events_that_are_single_numbers():
    flow = dist.Flow(torch.distributions.Normal(torch.tensor(0.0), torch.tensor(1.0)), bij.AffineFixed())
    page = whole(report_of(flow, torch.randn(50, generator=torch.Generator().manual_seed(0))))
    assert "1 of 1 dimensions calibrated" in page.text


@pytest.mark.parametrize("count", [0, 1, 2, 10])
def test_few_rows(count):
    rows = np.random.default_rng(0).standard_normal((count, 3))
    whole(report_of(standard(3), rows, samples=50))
    whole(report_of(standard(3), rows, training_rows=rows, samples=0))


def test_rows_outside_the_supports_and_missing_values():
    supports = (bij.Positive(), bij.Integer(0, 9), bij.Periodic(0, 360), bij.Bounded(0, 1), bij.Real())
    flow = dist.Flow(normal((5,)), bij.Supports(supports))
    rows = flow.sample((120,)).numpy()
    rows[[3, 4], 0] = -1.0
    rows[7, 2] = np.nan
    rows[8, 4] = np.inf
    page = whole(report_of(flow, rows, training_rows=rows))
    for expected in (
        "whole numbers from 0 to 9",
        "on the circle",
        "-∞",
        "1 row with a missing value",
        "held-out rows left",
    ):
        assert expected in page.text, expected


def test_rows_of_which_none_can_be_scored():
    flow = dist.Flow(normal((2,)), bij.Supports(bij.Positive()))
    page = whole(report_of(flow, -np.ones((20, 2))))
    assert "No held-out row has a finite log-density" in page.text
    whole(report_of(flow, np.full((20, 2), np.nan), training_rows=np.full((5, 2), np.nan)))


def test_columns_of_one_value_and_of_huge_or_tiny_numbers():
    rows = np.random.default_rng(0).standard_normal((60, 4)) * [0, 1e12, 1e-12, 1] + [5, 0, 0, 1.7e9]
    whole(report_of(standard(4), rows, training_rows=rows))


@pytest.mark.parametrize("name", [name for name in PLANS if name in ("stack", "interval", "nested")])
def test_conditional_flows_of_any_event_shape(name):
    flow = trained_flow(PLANS[name], (2, 3), (3,))
    context = 2 * torch.randn(80, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 4
    torch.manual_seed(1)
    rows = flow.sample((80,), context)
    page = whole(report_of(flow, rows, context=context, context_names=["u", "v", "<w>"], samples=100))
    assert "<w>" in page.text
    assert "given the context" in page.text
    # One that was given its context needs none.
    whole(report_of(flow.condition(context[0]), rows, samples=100))


@pytest.mark.parametrize("name", BASES)
def test_every_base(name):
    flow = dist.Flow(base(name, (3,)), bij.AffineFixed(2.0, -3.0))
    whole(report_of(flow, flow.sample((100,)), samples=200))


def test_a_flow_that_checks_its_arguments_still_gets_a_report():
    flow = dist.Flow(normal((1,)), bij.Exp(), validate_args=True)
    page = whole(report_of(flow, np.array([[-1.0], [1.0], [2.0]]), samples=50))
    assert "-∞" in page.text
    with pytest.raises(ValueError, match="support"):
        flow.log_prob(torch.tensor([[-1.0]], dtype=torch.float64))


def test_losses_that_are_not_finite_and_a_history_of_one_epoch():
    def result(*losses):
        history = tuple(Epoch(number, loss, loss, 0.1 / (1 + number // 2)) for number, loss in enumerate(losses))
        return FitResult(history, 0, "patience", 2, 90, 10, 1, {})

    rows = np.random.default_rng(0).standard_normal((40, 1))
    for losses in ((1.0,), (1.0, np.nan, np.inf, 0.5), (1.0, 1.0, 1.0)):
        whole(report_of(standard(1), rows, result=result(*losses), samples=50), sections=["training", *SECTIONS])


def test_a_section_that_fails_is_a_sentence():
    def broken():
        raise RuntimeError("a <bad> day")

    section = _guarded("rows", "Rows", broken)
    assert section.text == ["This section could not be made (RuntimeError: a <bad> day)."]


def test_nothing_of_the_caller_is_changed():
    flow, rows = trained_flow(PLANS["preprocessed"], (3,)), np.random.default_rng(0).standard_normal((30, 3))
    weights, before = {name: value.clone() for name, value in flow.state_dict().items()}, rows.copy()
    torch.manual_seed(5)
    expected = torch.randn(4)
    torch.manual_seed(5)
    first = report_of(flow, rows, samples=50)
    assert torch.equal(torch.randn(4), expected)
    assert first == report_of(flow, rows, samples=50)
    assert all(torch.equal(value, weights[name]) for name, value in flow.state_dict().items())
    np.testing.assert_array_equal(rows, before)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rows": np.zeros((5, 2))}, "rows of 3 values each"),
        ({"feature_names": ["a"]}, "1 feature_names given; expected 3"),
        ({"row_numbers": [1, 2]}, "2 row_numbers given for 5 rows"),
        ({"training_rows": np.zeros((5, 4))}, "training_rows of shape"),
    ],
)
def test_what_does_not_fit_is_refused(given, message):
    with pytest.raises(ShapeMismatchError, match=message):
        report_of(standard(3), given.pop("rows", np.zeros((5, 3))), **given)


def test_contexts_and_batch_shapes_that_do_not_fit_are_refused():
    flow = dist.Flow(normal((2,)), bij.AffineAutoregressive(), context_shape=(3,))
    with pytest.raises(ShapeMismatchError, match="context is missing"):
        report_of(flow, np.zeros((5, 2)))
    with pytest.raises(ShapeMismatchError, match="context has 4 rows; expected 5"):
        report_of(flow, np.zeros((5, 2)), context=np.zeros((4, 3)))
    with pytest.raises(ShapeMismatchError, match="batch shape"):
        report_of(flow.condition(torch.zeros(5, 3, dtype=torch.float64)), np.zeros((5, 2)))
