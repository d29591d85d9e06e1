"""The least likely rows are found, and the column that makes them unlikely is named."""

from __future__ import annotations

import numpy as np
import torch
from flows import normal

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
from flowmodel.report.evidence import gather
from flowmodel.report.extremes import blame, least_likely, most_likely


def test_extremes_are_those_of_a_sort():
    log_prob = np.array([0.0, np.nan, -np.inf, 5.0, -3.0, np.inf])
    assert least_likely(log_prob, 3).tolist() == [2, 4, 0]
    assert most_likely(log_prob, 9).tolist() == [3, 0, 4]


def test_a_planted_outlier_is_named_with_its_column():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 4))
    rows[17, 2] = 9.0
    rows[40, 0] = -7.0
    evidence = gather(dist.Flow(normal((4,)), bij.AffineFixed()), rows)
    least = least_likely(evidence.held_out.log_prob, 2)
    assert least.tolist() == [17, 40]
    first, second = blame(evidence, least)
    assert (first.column, second.column) == (2, 0)
    # Of the quantiles tried the one nearest to 0, the middle one, is best.
    assert abs(first.usual) < 0.1
    rows[17, 2] = first.usual
    torch_log_prob = evidence.model.flow.log_prob(torch.from_numpy(rows[17:18]))
    np.testing.assert_allclose(first.log_prob, torch_log_prob.numpy()[0], rtol=1e-12)


def test_a_value_usual_by_itself_and_absurd_beside_the_others_is_named():
    """Three columns that nearly agree; one of them disagrees, and no z-score of a column is large."""

    class Agreeing(dist.Flow):
        def log_prob(self, value, context=None):
            spread = value - value.mean(-1, keepdim=True)
            return -0.5 * (value.mean(-1) ** 2 + 100 * (spread**2).sum(-1))

    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 1)) + 0.1 * rng.standard_normal((300, 3))
    rows[5] = [0.8, -0.8, 0.8]
    evidence = gather(Agreeing(normal((3,)), bij.AffineFixed()), rows)
    assert least_likely(evidence.held_out.log_prob, 1).tolist() == [5]
    assert blame(evidence, np.array([5]))[0].column == 1


def test_a_row_outside_its_support_is_named_with_that_column():
    flow = dist.Flow(normal((3,)), bij.Supports((bij.Real(), bij.Positive(), bij.Integer(0, 9))))
    rows = flow.sample((200,)).numpy()
    rows[3] = [30.0, -1.0, 2.0]
    rows[4] = [0.0, -1.0, 40.0]
    evidence = gather(flow, rows)
    assert np.isneginf(evidence.held_out.log_prob[[3, 4]]).all()
    one, two = blame(evidence, np.array([3, 4]))
    assert one.column == 1
    assert np.isfinite(one.log_prob)
    # Two columns outside: no single change helps, and the first is named.
    assert two.column == 1
    assert np.isnan(two.log_prob)


def test_contexts_go_with_their_rows():
    flow = dist.Flow(normal((2,)), bij.AffineAutoregressive(), context_shape=(1,))
    rows = np.random.default_rng(0).standard_normal((50, 2))
    rows[9, 1] = 20.0
    evidence = gather(flow, rows, context=np.arange(50.0)[:, None])
    assert blame(evidence, least_likely(evidence.held_out.log_prob, 1))[0].column == 1


def test_of_very_many_columns_those_furthest_out_are_tried():
    rows = np.random.default_rng(0).standard_normal((60, 400))
    rows[9, 333] = 15.0
    evidence = gather(dist.Flow(normal((400,)), bij.AffineFixed()), rows)
    least = least_likely(evidence.held_out.log_prob, 1)
    assert least.tolist() == [9]
    assert blame(evidence, least)[0].column == 333
