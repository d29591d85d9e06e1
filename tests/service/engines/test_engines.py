"""What every engine does alike, and that it does so to the bit."""

import numpy as np
import pytest

from flowmodel.runtime.noise import standard_normal
from service.engines import create
from service.engines.engine import Draw, Engine, EngineError, EngineUnavailable, ModelKey, RequestRejected
from service.engines.inprocess import InProcessEngine
from service.engines.torchserve.engine import TorchServeEngine
from service.engines.torchserve.options import TorchServeOptions
from service.settings import Settings

ENGINES = ["inprocess", "torchserve"]


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Engine:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("count", [1, 7, 64, 1000, 5000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
async def test_both_give_the_same_bits(inprocess, torchserve, plain, conditional, count, dtype) -> None:
    for published, context_size in ((plain, 0), (conditional, 2)):
        rows = standard_normal(1, 0, count, published.event_size).astype(dtype)
        context = standard_normal(2, 0, count, context_size).astype(dtype) if context_size else None
        here, there = [await engine.log_prob(published.key, rows, context) for engine in (inprocess, torchserve)]
        assert here.dtype == there.dtype == np.float32
        assert np.isfinite(here).all()
        np.testing.assert_array_equal(here, there)
        draws = [Draw(2**64 - 1, 3, count - 1), Draw(5, 0, 1)] if count > 1 else [Draw(5, 0, 1)]
        for mine, its in zip(
            *[await engine.sample(published.key, draws, context) for engine in (inprocess, torchserve)], strict=True
        ):
            np.testing.assert_array_equal(mine, its)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
async def test_few_rows_have_the_same_bits_at_once(inprocess, torchserve, plain, conditional, dtype) -> None:
    for published, context_size in ((plain, 0), (conditional, 2)):
        rows = standard_normal(1, 0, 3000, published.event_size).astype(dtype)
        context = standard_normal(2, 0, 3000, context_size).astype(dtype) if context_size else None
        few = slice(0, 1)
        here = inprocess.log_prob_at_once(published.key, rows[few], None if context is None else context[few])
        np.testing.assert_array_equal(here, (await inprocess.log_prob(published.key, rows, context))[few])
        assert inprocess.log_prob_at_once(published.key, rows, context) is None
        assert torchserve.log_prob_at_once(published.key, rows[few], context) is None


async def test_at_once_says_what_does_not_fit(inprocess, plain) -> None:
    with pytest.raises(RequestRejected, match=r"\[1, 4\]"):
        inprocess.log_prob_at_once(plain.key, np.zeros((1, 4)), None)
    with pytest.raises(EngineError, match="nobody/1 is not loaded"):
        inprocess.log_prob_at_once(ModelKey("nobody", 1), np.zeros((1, 2)), None)


async def test_parts_of_a_long_call_fit_together(inprocess, torchserve, conditional, monkeypatch) -> None:
    """With messages of 4 KiB, 700 rows go in several parts, and the draws' borders fall within them."""
    options = TorchServeOptions(threads=2, message_bytes=4096)
    monkeypatch.setattr(torchserve, "_options", options)
    rows, context = standard_normal(1, 0, 700, 5), standard_normal(2, 0, 700, 2)
    draws = [Draw(1, 0, 10), Draw(2, 100, 333), Draw(3, 0, 350), Draw(4, 9, 7)]
    here, there = [await engine.log_prob(conditional.key, rows, context) for engine in (inprocess, torchserve)]
    np.testing.assert_array_equal(here, there)
    for mine, its in zip(
        *[await engine.sample(conditional.key, draws, context) for engine in (inprocess, torchserve)], strict=True
    ):
        np.testing.assert_array_equal(mine, its)


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
async def test_says_what_does_not_fit(engine, plain, conditional) -> None:
    with pytest.raises(RequestRejected, match=r"\[2, 4\]") as error:
        await engine.log_prob(plain.key, np.zeros((2, 4)), None)
    assert (error.value.reason, error.value.field) == ("WRONG_SHAPE", "rows")
    with pytest.raises(RequestRejected) as error:
        await engine.log_prob(conditional.key, np.zeros((2, 5)), None)
    assert (error.value.reason, error.value.field) == ("CONTEXT_MISSING", "context")
    with pytest.raises(RequestRejected):
        await engine.sample(plain.key, [Draw(0, 0, 0)], None)


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
async def test_a_failing_model_is_an_error_and_no_outage(engine, fragile) -> None:
    with pytest.raises(EngineError, match="the number it cannot bear") as error:
        await engine.log_prob(fragile.key, np.full((1, 2), 666.0), None)
    assert not isinstance(error.value, EngineUnavailable)
    assert "\n" not in str(error.value)
    assert engine.healthy
    assert (await engine.log_prob(fragile.key, np.zeros((1, 2)), None)).shape == (1,)


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
async def test_an_unknown_model_is_an_error(engine) -> None:
    with pytest.raises(EngineError, match="nobody/1 is not loaded"):
        await engine.log_prob(ModelKey("nobody", 1), np.zeros((1, 2)), None)
    with pytest.raises(EngineError, match="nobody/1 is not loaded"):
        await engine.sample(ModelKey("nobody", 1), [Draw(0, 0, 1)], None)
    await engine.unload(ModelKey("nobody", 1))


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
async def test_loading_what_is_broken_is_an_error(engine, shelf) -> None:
    broken = shelf.broken("broken")
    with pytest.raises(EngineError):
        await engine.load(broken)
    assert engine.healthy
    with pytest.raises(EngineError, match="not loaded"):
        await engine.log_prob(broken.key, np.zeros((1, 2)), None)


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
async def test_versions_come_and_go_side_by_side(engine, plain, shelf) -> None:
    """The first version is TorchServe's default, which it refuses to unload while there are others."""
    first, second = shelf.flow("moving", 1, 3), shelf.flow("moving", 2, 3)
    rows = np.ones((1, 3))
    await engine.load(first)
    old = await engine.log_prob(first.key, rows, None)
    await engine.load(second)
    await engine.load(second)
    new = await engine.log_prob(second.key, rows, None)
    assert old != new
    np.testing.assert_array_equal(await engine.log_prob(first.key, rows, None), old)
    await engine.unload(first.key)
    np.testing.assert_array_equal(await engine.log_prob(second.key, rows, None), new)
    with pytest.raises(EngineError, match="moving/1 is not loaded"):
        await engine.log_prob(first.key, rows, None)
    await engine.unload(second.key)
    assert engine.healthy


@pytest.mark.parametrize("engine", [InProcessEngine(1), TorchServeEngine(TorchServeOptions())], ids=ENGINES)
async def test_before_start_and_after_close(engine, plain) -> None:
    assert isinstance(engine, Engine)
    await engine.close()
    assert not engine.healthy
    with pytest.raises(EngineUnavailable):
        await engine.load(plain)
    with pytest.raises(EngineError):
        await engine.log_prob(plain.key, np.zeros((1, 3)), None)


async def test_the_settings_choose() -> None:
    inprocess = create(Settings(engine="inprocess", threads=1))
    assert (inprocess.name, type(inprocess)) == ("inprocess", InProcessEngine)
    torchserve = create(Settings(engine="torchserve", threads=3, torchserve_heap="1g"))
    assert (torchserve.name, type(torchserve)) == ("torchserve", TorchServeEngine)
    assert (torchserve._options.threads, torchserve._options.heap) == (3, "1g")


def test_an_address_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="torchserve_address is set and torchserve_management_address is not"):
        TorchServeOptions(address="localhost:7070")
    with pytest.raises(ValueError, match="torchserve_management_address is set and torchserve_address is not"):
        TorchServeOptions(management_address="localhost:7071")
