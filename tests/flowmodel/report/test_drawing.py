"""Axes: round ticks, numbers that can be told apart, and paths that stay inside."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from flowmodel.report.drawing import Panel, figure, short, shortened, ticks, widened


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0, 1),
        (-3.7, 12.2),
        (1e-9, 3e-9),
        (-1e12, 1e12),
        (1.7e9, 1.7e9 + 3),
        (0.1, 0.2),
        (5, 5.000001),
        (-1e-300, 1e-300),
    ],
)
@pytest.mark.parametrize("most", [2, 3, 6])
def test_ticks_are_few_inside_and_told_apart(low, high, most):
    found = ticks(low, high, most)
    assert 1 <= len(found) <= most
    margin = 1e-9 * (high - low)
    assert all(low - margin <= value <= high + margin for value, _ in found)
    assert len({text for _, text in found}) == len(found)
    assert all(len(text) <= 12 for _, text in found)


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5, 123456.0, 1.5e-7, 3.25e21, 99999.5, 1e300])
def test_a_short_number_is_the_number_to_three_digits(value):
    assert float(short(value)) == pytest.approx(value, rel=1e-3)
    assert len(short(value)) <= 9


def test_numbers_that_are_not_finite_have_names():
    assert [short(value) for value in (np.nan, np.inf, -np.inf)] == ["NaN", "∞", "-∞"]


@pytest.mark.parametrize("limits", [(3.0, 3.0), (0.0, 0.0), (-1e9, -1e9)])
def test_limits_of_a_constant_are_apart(limits):
    low, high = widened(limits)
    assert low < limits[0] < high


def test_a_long_text_keeps_its_ends():
    assert shortened("a" * 50 + "b", 7) == "aaa…aab"
    assert shortened("short", 7) == "short"


def test_what_a_figure_holds_is_markup_and_its_words_are_not():
    panel = Panel(10, 10, 100, 50, x=(0, 1), y=(0, 1))
    panel.frame()
    panel.x_axis("<i>x</i>")
    panel.y_axis()
    panel.line(np.array([0.0, np.nan, 0.5, 1.0]), np.array([0.0, 0.5, 9.0, np.nan]), "data")
    panel.steps(np.array([0.0, 0.5, 1.0]), np.array([0.2, 0.7]), "model", filled=True)
    panel.points(np.array([0.5, 2.0, np.nan]), np.array([0.5, 0.5, 0.5]), "data")
    panel.upright(0.7, "best", 'a "label" & more')
    svg = str(figure(130, 90, '"<b>"', panel))
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == '"<b>"'
    words = [element.text for element in root.iter("text")]
    assert "<i>x</i>" in words
    assert 'a "label" & more' in words
    assert "nan" not in svg
    # One point of three lies inside the axes.
    assert len(re.findall(r"h0", "".join(e.get("d") for e in root.iter("path") if "dots" in e.get("class")))) == 1
