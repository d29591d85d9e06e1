"""Conditional models from the artefact to the wire: gRPC and HTTP answer for each row's own context, on any base."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import plain_http
import pytest
import torch
from conftest import Loop, Running, running

import flowmodel
import flowmodel.bijectors as bij
import flowmodel.distributions as dist
from flowmodel.artefact.store import ModelStore
from service.client import DensityClient

ROWS = np.random.default_rng(1).standard_normal((6, 3)).round(3)
CONTEXT = np.random.default_rng(2).standard_normal((6, 2)).round(3)


def student() -> torch.distributions.Distribution:
    """A base that takes more noise than a row has columns."""
    return torch.distributions.StudentT(torch.tensor([3.0, 5.0, 9.0], dtype=torch.float64))


def mixture() -> torch.distributions.Distribution:
    loc = torch.tensor([[-2.0, 0.0, 1.0], [2.0, 1.0, 0.0]], dtype=torch.float64)
    components = torch.distributions.Normal(loc, torch.ones_like(loc))
    weights = torch.distributions.Categorical(torch.tensor([0.3, 0.7], dtype=torch.float64))
    return torch.distributions.MixtureSameFamily(weights, torch.distributions.Independent(components, 1))


@pytest.fixture(scope="module")
def conditional(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Path]]:
    store = tmp_path_factory.mktemp("conditional")
    torch.manual_seed(0)
    for name, base in (("student", torch.distributions.Independent(student(), 1)), ("mixture", mixture())):
        plan = bij.Compose([bij.Invert(bij.AffineAutoregressive()), bij.Permute(), bij.Standardize()])
        flow = dist.Flow(base, plan, context_shape=(2,))
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        context = torch.randn(40, 2, dtype=torch.float64)
        flow.standardize_(3 * torch.randn(40, 3, dtype=torch.float64) + 1, context)
        flowmodel.publish(flow, store, name, feature_names=["a", "b", "c"], context_names=["left", "right"])
    with running(loop, store) as service:
        yield service, store


@pytest.mark.parametrize("name", ["student", "mixture"])
def test_every_way_in_answers_as_the_eager_flow_does(conditional: tuple[Running, Path], name: str) -> None:
    service, store = conditional
    flow = flowmodel.load(ModelStore(store).open(name).path)
    with torch.no_grad():
        expected = flow.log_prob(torch.from_numpy(ROWS), torch.from_numpy(CONTEXT)).numpy()
    with DensityClient(service.grpc) as client:
        # float64 on the wire, and sums in another order.
        np.testing.assert_allclose(client.log_prob(name, ROWS, CONTEXT), expected, rtol=1e-9, atol=1e-9)
        drawn = client.draw(name, 6, seed=5, context=CONTEXT)
        scored = client.log_prob(name, drawn.samples, CONTEXT)
        np.testing.assert_allclose(drawn.log_prob, scored, rtol=1e-9, atol=1e-9)
    url = f"{service.http}/v1/models/{name}"
    body = {"rows": ROWS.tolist(), "context": CONTEXT.tolist()}
    answered = plain_http.post(f"{url}:logProb", json=body).raise_for_status().json()["log_prob"]
    np.testing.assert_allclose(answered, expected, rtol=1e-9, atol=1e-9)
    lines = ["left,a,b,c,right"]
    lines += [",".join(map(str, [c[0], *row, c[1]])) for row, c in zip(ROWS, CONTEXT, strict=True)]
    table = plain_http.post(f"{url}:logProb", content="\n".join(lines), headers={"content-type": "text/csv"})
    numbers = [float(line.split(",")[0]) for line in table.raise_for_status().text.split()[1:]]
    np.testing.assert_allclose(numbers, expected, rtol=1e-9, atol=1e-9)
    request = {"count": 6, "seed": 5, "context": CONTEXT.tolist()}
    samples = plain_http.post(f"{url}:sample", json=request).raise_for_status().json()
    np.testing.assert_array_equal(samples["samples"], drawn.samples)


def test_each_row_is_answered_for_its_own_context(conditional: tuple[Running, Path]) -> None:
    service, _ = conditional
    with DensityClient(service.grpc) as client:
        whole = client.log_prob("student", ROWS, CONTEXT)
        alone = [client.log_prob("student", ROWS[i : i + 1], CONTEXT[i : i + 1])[0] for i in range(len(ROWS))]
        np.testing.assert_array_equal(whole, alone)
        assert not np.array_equal(client.log_prob("student", ROWS, CONTEXT[::-1].copy()), whole)
    missing = plain_http.post(f"{service.http}/v1/models/student:logProb", json={"rows": ROWS.tolist()})
    assert missing.status_code == 400
    assert "context" in missing.text
