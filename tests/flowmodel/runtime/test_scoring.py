"""The scorer gives a row the same bits in any company, and refuses what does not fit."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from flowmodel.runtime.noise import standard_normal
from flowmodel.runtime.scoring import Draw, Scorer, ScoringError, prepare_torch

MakeScorer = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    prepare_torch()
    yield
    torch.set_num_threads(before)


def rows_for(scorer: Scorer, count: int, dtype: type = np.float32) -> np.ndarray:
    return standard_normal(99, 0, count, scorer.event_size).astype(dtype)


def context_for(scorer: Scorer, count: int) -> np.ndarray | None:
    return standard_normal(98, 0, count, scorer.context_size) if scorer.context_size else None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("dims", "context", "hidden"), [(1, 0, 16), (2, 0, 64), (8, 3, 128), (30, 0, 256)])
def test_bits_do_not_depend_on_the_batch(
    make_scorer: MakeScorer, dims: int, context: int, hidden: int, dtype: type
) -> None:
    scorer = Scorer.load(make_scorer(dims, context, hidden))
    rows, contexts = rows_for(scorer, 3000, dtype), context_for(scorer, 3000)
    whole = scorer.log_prob(rows, contexts)
    samples, sample_log_prob = scorer.sample([Draw(1, 0, 3000)], contexts)
    for start, stop in [(0, 1), (1, 2), (2, 5), (7, 38), (40, 72), (100, 165), (200, 457), (1000, 3000), (2999, 3000)]:
        part = None if contexts is None else contexts[start:stop]
        np.testing.assert_array_equal(scorer.log_prob(rows[start:stop], part), whole[start:stop])
        again, again_log_prob = scorer.sample([Draw(1, start, stop - start)], part)
        np.testing.assert_array_equal(again, samples[start:stop])
        np.testing.assert_array_equal(again_log_prob, sample_log_prob[start:stop])


def test_bits_do_not_depend_on_the_threads(make_scorer: MakeScorer) -> None:
    path = make_scorer(8, 3)
    alone = Scorer.load(path)
    rows, contexts = rows_for(alone, 5000), context_for(alone, 5000)
    expected, (samples, log_prob) = alone.log_prob(rows, contexts), alone.sample([Draw(3, 0, 5000)], contexts)
    for threads in (2, 3, 5):
        with ThreadPoolExecutor(threads) as pool:
            spread = Scorer.load(path, pool=pool, threads=threads)
            np.testing.assert_array_equal(spread.log_prob(rows, contexts), expected)
            again, again_log_prob = spread.sample([Draw(3, 0, 5000)], contexts)
            np.testing.assert_array_equal(again, samples)
            np.testing.assert_array_equal(again_log_prob, log_prob)


def test_calls_from_several_threads(make_scorer: MakeScorer) -> None:
    scorer = Scorer.load(make_scorer(8))
    rows = rows_for(scorer, 700)
    expected = scorer.log_prob(rows)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(scorer.log_prob, [rows] * 12):
            np.testing.assert_array_equal(result, expected)


def test_draws_come_one_after_the_other(make_scorer: MakeScorer) -> None:
    scorer = Scorer.load(make_scorer(2))
    rows, log_prob = scorer.sample([Draw(1, 0, 3), Draw(2, 10, 4), Draw(1, 1, 2)])
    np.testing.assert_array_equal(rows[:3], scorer.sample([Draw(1, 0, 3)])[0])
    np.testing.assert_array_equal(rows[3:7], scorer.sample([Draw(2, 10, 4)])[0])
    np.testing.assert_array_equal(rows[7:], rows[1:3])
    # The sampled density is that of the rows, but for their rounding to float32.
    np.testing.assert_allclose(log_prob, scorer.log_prob(rows), atol=1e-4)


def test_a_bad_row_leaves_the_others_alone(make_scorer: MakeScorer) -> None:
    scorer = Scorer.load(make_scorer(8))
    rows = rows_for(scorer, 50)
    expected = scorer.log_prob(rows)
    rows[20, 3], rows[49, 0] = np.nan, np.inf
    kept = np.delete(np.arange(50), [20, 49])
    np.testing.assert_array_equal(scorer.log_prob(rows)[kept], expected[kept])


def test_describes_itself(make_scorer: MakeScorer) -> None:
    scorer = Scorer.load(make_scorer(2, 1))
    assert (scorer.event_size, scorer.context_size, scorer.dtype) == (2, 1, np.float32)
    assert (scorer.feature_names, scorer.context_names) == (["f0", "f1"], ["c0"])


def test_read_only_and_strided_rows_are_fine(make_scorer: MakeScorer) -> None:
    scorer = Scorer.load(make_scorer(2))
    rows = rows_for(scorer, 64)
    rows.flags.writeable = False
    np.testing.assert_array_equal(scorer.log_prob(np.asfortranarray(rows)), scorer.log_prob(rows))
    np.testing.assert_array_equal(scorer.log_prob(rows[::2]), scorer.log_prob(rows)[::2])


@pytest.mark.parametrize(
    ("rows", "context", "reason", "field"),
    [
        (np.zeros((3, 1)), np.zeros((3, 1)), "WRONG_SHAPE", "rows"),
        (np.zeros(2), np.zeros((1, 1)), "WRONG_SHAPE", "rows"),
        (np.zeros((0, 2)), np.zeros((0, 1)), "WRONG_SHAPE", "rows"),
        (np.zeros((3, 2), np.int64), np.zeros((3, 1)), "WRONG_DTYPE", "rows"),
        (np.zeros((3, 2)), None, "CONTEXT_MISSING", "context"),
        (np.zeros((3, 2)), np.zeros((2, 1)), "WRONG_SHAPE", "context"),
        (np.zeros((3, 2)), np.zeros((3, 2)), "WRONG_SHAPE", "context"),
    ],
)
def test_refuses_what_does_not_fit(
    make_scorer: MakeScorer, rows: np.ndarray, context: np.ndarray | None, reason: str, field: str
) -> None:
    with pytest.raises(ScoringError) as error:
        Scorer.load(make_scorer(2, 1)).log_prob(rows, context)
    assert (error.value.reason, error.value.field) == (reason, field)


def test_refuses_a_context_it_has_no_use_for(make_scorer: MakeScorer) -> None:
    with pytest.raises(ScoringError, match="takes none"):
        Scorer.load(make_scorer(2)).log_prob(np.zeros((1, 2)), np.zeros((1, 1)))


@pytest.mark.parametrize("draws", [[], [Draw(1, 0, 0)], [Draw(-1, 0, 1)], [Draw(2**64, 0, 1)], [Draw(0, -1, 1)]])
def test_refuses_impossible_draws(make_scorer: MakeScorer, draws: list[Draw]) -> None:
    with pytest.raises(ScoringError) as error:
        Scorer.load(make_scorer(2)).sample(draws)
    assert error.value.reason == "INVALID_DRAW"


def test_refuses_torchscript_that_is_no_scorer(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "linear.pt"))
    with pytest.raises(RuntimeError, match="not a scorer"):
        Scorer.load(tmp_path / "linear.pt")


def test_full_precision_is_held() -> None:
    torch.set_float32_matmul_precision("high")
    prepare_torch()
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_agrees_with_cpu(make_scorer: MakeScorer) -> None:
    path = make_scorer(8, 3, 128)
    cpu, gpu = Scorer.load(path), Scorer.load(path, "cuda:0")
    rows, contexts = rows_for(cpu, 1000), context_for(cpu, 1000)
    # Both compute in float32 and sum in another order.
    np.testing.assert_allclose(gpu.log_prob(rows, contexts), cpu.log_prob(rows, contexts), rtol=1e-4, atol=1e-4)
    there, here = (scorer.sample([Draw(1, 0, 1000)], contexts) for scorer in (gpu, cpu))
    np.testing.assert_allclose(there[0], here[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(there[1], here[1], rtol=1e-4, atol=1e-4)
