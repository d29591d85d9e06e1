"""A row outside the support is answered with -inf, over both transports, and is no error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import plain_http
import torch
from conftest import Start

import flowmodel
import flowmodel.bijectors as bij
import flowmodel.distributions as dist
from service.client import DensityClient


def test_outside_the_support_is_minus_infinity(start: Start, tmp_path: Path) -> None:
    base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(3), torch.ones(3)), 1)
    flow = dist.Flow(base, bij.Supports((bij.Positive(), bij.Bounded(0, 1), bij.Integer(0, 9))))
    flowmodel.publish(flow, tmp_path, "shop")
    service = start(tmp_path)
    rows = np.array([[1.0, 0.5, 3.0], [-1.0, 0.5, 3.0], [1.0, 1.0, 3.0], [1.0, 0.5, 10.0]])
    inside = float(flow.log_prob(torch.from_numpy(rows[:1])))
    with DensityClient(service.grpc) as client:
        answer = client.score("shop", rows).log_prob
        samples = client.sample("shop", 200, seed=1)
    np.testing.assert_allclose(answer[0], inside, rtol=1e-5)
    assert (np.asarray(answer[1:]) == -np.inf).all()
    assert np.array_equal(samples[:, 2], np.round(samples[:, 2]))
    assert 0 <= samples[:, 2].min() < samples[:, 2].max() <= 9
    posted = plain_http.post(f"{service.http}/v1/models/shop:logProb", json={"rows": rows.tolist()})
    assert posted.status_code == 200
    assert posted.json()["log_prob"][1:] == ["-Infinity"] * 3
