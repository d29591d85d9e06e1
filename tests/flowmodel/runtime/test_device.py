"""A flow on a GPU: stages, graphs and the fused kernel. What needs no GPU goes through the same stages on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from bases import BASES, base
from flows import PLANS, trained_flow
from torch.utils._python_dispatch import TorchDispatchMode

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params
from flowmodel.artefact.scorer import export_scorer
from flowmodel.runtime.density_handler import DensityHandler
from flowmodel.runtime.device import LAUNCHED_STAGES, DeviceFlow
from flowmodel.runtime.noise import standard_normal
from flowmodel.runtime.scoring import Draw, Scorer

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
MakeScorer = Callable[..., Path]
CPU = torch.device("cpu")
ROUNDING = {"rtol": 1e-4, "atol": 1e-4}
"""Both compute in float32 and sum in another order."""


def loaded(path: Path, device: str = "cpu") -> torch.jit.ScriptModule:
    return torch.jit.load(str(path), map_location=device).eval()


def rows_and_context(module: torch.jit.ScriptModule, count: int) -> tuple[np.ndarray, np.ndarray | None]:
    context = standard_normal(98, 0, count, module.context_size) if module.context_size else None
    return standard_normal(99, 0, count, module.event_size).astype(np.float32), context


def expected(module: torch.jit.ScriptModule, rows: np.ndarray, context: np.ndarray | None) -> np.ndarray:
    with torch.inference_mode():
        return module.log_prob(torch.from_numpy(rows), None if context is None else torch.from_numpy(context)).numpy()


@pytest.mark.parametrize("splits", [True, False])
@pytest.mark.parametrize("count", [1, 31, 32, 33, 64, 65, 300])
def test_rows_go_through_stages_of_any_size_unchanged(make_scorer: MakeScorer, count: int, splits: bool) -> None:
    module = loaded(make_scorer(8, 3))
    flow = DeviceFlow(module, module, CPU, "torchscript", (32, 64), splits=splits)
    rows, context = rows_and_context(module, count)
    answered = flow.log_prob(rows, context)
    np.testing.assert_allclose(answered, expected(module, rows, context), rtol=1e-5, atol=1e-5)
    samples, log_prob = flow.sample(standard_normal(1, 0, count, 8), context)
    assert (samples.shape, log_prob.shape) == ((count, 8), (count,))
    np.testing.assert_allclose(log_prob, expected(module, samples, context), **ROUNDING)


def test_answers_are_arrays_of_their_own(make_scorer: MakeScorer) -> None:
    module = loaded(make_scorer(2))
    flow = DeviceFlow(module, module, CPU, "torchscript", (32,), splits=True)
    rows, _ = rows_and_context(module, 64)
    first = flow.log_prob(rows[:32])
    kept = first.copy()
    flow.log_prob(rows[32:])
    np.testing.assert_array_equal(first, kept)


def test_float64_data_arrive_in_float64(tmp_path: Path) -> None:
    flow = trained_flow(bij.Compose([bij.AffineAutoregressive(), bij.Standardize()]), (2,), None, torch.float32)
    flow.standardize_(1e9 + torch.randn(50, 2, dtype=torch.float64), None)
    module = loaded(export_scorer(flow, tmp_path / "scorer.pt"))
    staged = DeviceFlow(module, module, CPU, "torchscript", (32,), splits=True)
    rows = 1e9 + standard_normal(1, 0, 20, 2)
    np.testing.assert_allclose(staged.log_prob(rows), expected(module, rows, None), rtol=1e-5, atol=1e-5)
    assert not np.allclose(staged.log_prob(rows.astype(np.float32)), staged.log_prob(rows), atol=1e-3)


def test_a_row_that_is_not_finite_spoils_only_itself(make_scorer: MakeScorer) -> None:
    module = loaded(make_scorer(3))
    flow = DeviceFlow(module, module, CPU, "torchscript", (32,), splits=True)
    rows, _ = rows_and_context(module, 40)
    good = flow.log_prob(rows)
    bad = rows.astype(np.float64)
    bad[3, 1], bad[39, 0] = np.nan, 1e300
    keep = np.delete(np.arange(40), [3, 39])
    np.testing.assert_array_equal(flow.log_prob(bad)[keep], good[keep])


def test_calls_from_several_threads_take_turns(make_scorer: MakeScorer) -> None:
    module = loaded(make_scorer(3))
    flow = DeviceFlow(module, module, CPU, "torchscript", (32,), splits=True)
    rows, _ = rows_and_context(module, 320)
    parts = [rows[start : start + 32] for start in range(0, 320, 32)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(flow.log_prob, parts))
    np.testing.assert_array_equal(np.concatenate(answers), flow.log_prob(rows))


class Operations(TorchDispatchMode):
    """Notes what is computed, TorchScript's operations included."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name().split(".")[0])
        return func(*args, **(kwargs or {}))


def waits_for_the_device(module: torch.jit.ScriptModule, *methods: str) -> set[str]:
    """What these methods hold that copies between host and device, which a CUDA graph cannot."""
    found = set()
    with torch.inference_mode(), torch.jit.optimized_execution(False), Operations() as operations:
        for method in methods:
            graph = module._c._get_method(method).graph.copy()
            torch._C._jit_pass_inline(graph)
            if list(graph.findAllNodes("aten::tensor", recurse=True)):
                found.add("aten::tensor")
            getattr(module, method)(torch.zeros(2, getattr(module, "noise_size", 5)))
    return found | (operations.names & {"aten::item", "aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero"})


@pytest.mark.parametrize("name", sorted(PLANS))
def test_no_flow_holds_what_cannot_be_captured(name: str, tmp_path: Path) -> None:
    path = export_scorer(trained_flow(PLANS[name], (5,), None, torch.float32), tmp_path / "scorer.pt")
    assert waits_for_the_device(loaded(path), "log_prob", "sample") == set()


@pytest.mark.parametrize("name", BASES)
def test_no_base_holds_what_cannot_be_captured(name: str, tmp_path: Path) -> None:
    flow = dist.Flow(base(name, (5,), torch.float32), bij.AffineAutoregressive())
    module = loaded(export_scorer(flow, tmp_path / "scorer.pt"))
    assert waits_for_the_device(module, "sample") == set()


def test_what_cannot_be_captured_is_found() -> None:
    class Waits(torch.nn.Module):
        @torch.jit.export
        def log_prob(self, rows: torch.Tensor) -> torch.Tensor:
            return rows + torch.tensor([1, 2, 3, 4, 5], device=rows.device)

        @torch.jit.export
        def sample(self, noise: torch.Tensor) -> torch.Tensor:
            return noise if bool((noise > 0).any()) else -noise

    module = torch.jit.script(Waits())
    assert waits_for_the_device(module, "log_prob") == {"aten::tensor"}
    assert waits_for_the_device(module, "sample") != set()


@needs_gpu
@pytest.mark.parametrize("name", sorted(PLANS))
def test_every_flow_can_be_captured_and_agrees_with_the_cpu(name: str, tmp_path: Path) -> None:
    path = export_scorer(trained_flow(PLANS[name], (5,), None, torch.float32), tmp_path / "scorer.pt")
    there, here = loaded(path, "cuda"), Scorer.load(path)
    flow = DeviceFlow(there, there, torch.device("cuda:0"), "torchscript", (32, 64), splits=True)
    assert all(stage._graph is not None for stages in [*flow._log_prob.values(), flow._sample] for stage in stages)
    samples, log_prob = here.sample([Draw(1, 0, 150)])
    drawn, drawn_log_prob = flow.sample(standard_normal(1, 0, 150, here.noise_size))
    np.testing.assert_allclose(drawn, samples, **ROUNDING)
    np.testing.assert_allclose(drawn_log_prob, log_prob, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(flow.log_prob(samples), here.log_prob(samples), rtol=1e-3, atol=1e-3)


@needs_gpu
@pytest.mark.parametrize("count", [1, 32, 33, 1024, 1025, 5000, 70000])
@pytest.mark.parametrize("context", [0, 3])
def test_the_fused_kernel_answers_on_a_gpu(make_scorer: MakeScorer, context: int, count: int) -> None:
    pytest.importorskip("triton")
    path = make_scorer(8, context, 128)
    cpu, gpu = Scorer.load(path), Scorer.load(path, "cuda:0")
    assert gpu.answered_by == "triton"
    rows, contexts = rows_and_context(loaded(path), count)
    np.testing.assert_allclose(gpu.log_prob(rows, contexts), cpu.log_prob(rows, contexts), **ROUNDING)
    np.testing.assert_allclose(
        gpu.log_prob(rows.astype(np.float64), contexts), cpu.log_prob(rows, contexts), **ROUNDING
    )
    there, here = (scorer.sample([Draw(1, 0, count)], contexts) for scorer in (gpu, cpu))
    np.testing.assert_allclose(there[0], here[0], **ROUNDING)
    np.testing.assert_allclose(there[1], here[1], **ROUNDING)


@needs_gpu
def test_what_the_kernel_does_not_cover_is_captured(tmp_path: Path) -> None:
    plan = bij.SplineAutoregressive(params.DenseAutoregressive((64, 64)))
    path = export_scorer(trained_flow(plan, (8,), None, torch.float32), tmp_path / "scorer.pt")
    gpu = Scorer.load(path, "cuda:0")
    assert gpu.answered_by == "torchscript"
    plain = Scorer.load(path, "cuda:0", native=False)
    for count in (1, LAUNCHED_STAGES[0] + 1, LAUNCHED_STAGES[-1] + 1):
        rows = standard_normal(5, 0, count, 8).astype(np.float32)
        np.testing.assert_allclose(gpu.log_prob(rows), plain.log_prob(rows), rtol=1e-5, atol=1e-5)


@needs_gpu
def test_the_handler_computes_on_the_gpu_that_torchserve_gives_it(make_scorer: MakeScorer, tmp_path: Path) -> None:
    (tmp_path / "scorer.pt").symlink_to(make_scorer(3))
    handler = DensityHandler()
    handler.initialize(
        SimpleNamespace(
            system_properties={"model_dir": str(tmp_path), "gpu_id": 0},
            manifest={"model": {"modelName": "wine", "modelVersion": "1"}},
        )
    )
    assert handler._scorer._device == torch.device("cuda:0")
    assert torch.get_float32_matmul_precision() == "highest"
