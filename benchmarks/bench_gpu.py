"""The scorer on a GPU: one row in the handler, rows a second, the share of the card's peak, a training step.

    make bench-gpu                                  # all of it, recorded in benchmarks/results/gpu.{md,json}
    python benchmarks/bench_gpu.py --interpret      # the program itself, tiny, by Triton's interpreter; records nothing

Float32, TF32 off, medians of interleaved repetitions, the device synchronised after each. "Scorer" is numpy to numpy,
as a worker calls it; "kernel" is the Triton kernel alone, its rows on the device; "captured" is TorchScript in CUDA
graphs, numpy to numpy, which answers where the kernel does not cover a flow. Useful operations are those that the masks
leave; the peak is that of the largest of several float32 matrix products on the same card. Without a GPU it says so.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from kernel import peers
from kernel.stopwatch import Call, Effort, Timing, interleaved
from kernel.subject import Subject
from reporting.verdict import Verdict

from flowmodel.artefact.scorer import export_scorer
from flowmodel.runtime.density_handler import DensityHandler
from flowmodel.runtime.device import LAUNCHED_STAGES, DeviceFlow
from flowmodel.runtime.envelope import pack
from flowmodel.runtime.scoring import Scorer, prepare_torch

RESULTS = Path(__file__).parent / "results"


class Plan(NamedTuple):
    """What is measured, and how long.

    Attributes:
        flows: D, H and number of layers of each.
        batches: rows of a call.
        checked: rows whose log-density is compared with float64.
        training: D, H, B of a training step.
        products: sizes of the matrix products that find the peak.
        effort: of each measurement.
    """

    flows: list[tuple[int, int, int]]
    batches: list[int]
    checked: int
    training: tuple[int, int, int]
    products: list[int]
    effort: Effort


FULL = Plan(
    [(21, 512, 5), (63, 1024, 10)],
    [1, 16, 256, 1024, 4096, 16384, 65536, 262144],
    256,
    (63, 512, 1024),
    [4096, 8192, 16384],
    Effort(seconds=1.0),
)
TINY = Plan([(3, 16, 2), (4, 24, 1)], [1, 20], 8, (3, 16, 32), [64], Effort(seconds=0.01, rounds=2))

ONE_ROW_MILLISECONDS = {(21, 512, 5): 0.3}
ROWS_PER_SECOND = {(21, 512, 5): 10e6, (63, 1024, 10): 1e6}
FROM_BATCH = 16384
TRAINING_STEP = 20.0
"""The targets: of one row in the handler, of large batches, and FlowTorch's training step in ours."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interpret", action="store_true", help="tiny, by Triton's interpreter on the CPU")
    given = parser.parse_args()
    if not given.interpret and not torch.cuda.is_available():
        print(f"no GPU that torch {torch.__version__} can use; nothing is measured (--interpret tries the program out)")
        return
    if given.interpret:
        os.environ["TRITON_INTERPRET"] = "1"
    device, plan = ("cpu", TINY) if given.interpret else ("cuda:0", FULL)
    prepare_torch()
    about = {"device": name_of(device), "torch": torch.__version__, "command": " ".join(["python", *sys.argv])}
    peak = peak_of(plan, device)
    flows = [measure(Subject(*size), device, plan, peak) for size in plan.flows]
    training = training_step(plan, device)
    text = page(about, peak, flows, training)
    print(text)
    if not given.interpret:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "gpu.md").write_text(text)
        record = {**about, "peak_tflops": peak, "flows": flows, "training": training}
        (RESULTS / "gpu.json").write_text(json.dumps(record, indent=2) + "\n")


def name_of(device: str) -> str:
    return torch.cuda.get_device_name(device) if device != "cpu" else "no GPU: Triton's interpreter on the CPU"


def finished(call: Call, device: str) -> Call:
    """The call, and everything that it started."""

    def run() -> None:
        call()
        if device != "cpu":
            torch.cuda.synchronize(device)

    return run


def peak_of(plan: Plan, device: str) -> float:
    """TFLOP/s of the best float32 matrix product."""
    rates = []
    for size in plan.products:
        left, right = (torch.randn(size, size, device=device) for _ in range(2))
        call = finished(lambda left=left, right=right: left @ right, device)  # type: ignore[misc]
        rates.append(2 * size**3 / interleaved({"product": call}, plan.effort)["product"]["ms"] / 1e9)
    return max(rates)


def measure(subject: Subject, device: str, plan: Plan, peak: float) -> dict[str, Any]:
    """One flow: a row in the handler, and every batch in every way."""
    from flowmodel.kernel.cuda.fused_flow import FusedFlow

    with tempfile.TemporaryDirectory() as folder:
        path = export_scorer(subject.flow, Path(folder, "scorer.pt"))
        scorer = Scorer.load(path, device)
        module: Any = torch.jit.load(str(path), map_location=device)
        one_row = handler_call(Path(folder), device)
        handler = interleaved({"handler": one_row}, plan.effort)["handler"]
    fused = FusedFlow(module, device)
    captured = DeviceFlow(module, module, torch.device(device), "torchscript", LAUNCHED_STAGES, splits=True)
    noise, rows = subject.rows(plan.checked)
    reference = subject.reference(rows, noise)
    errors = {
        "scorer": torch.from_numpy(scorer.log_prob(rows.numpy())),
        "kernel": fused.log_prob(rows.to(device)).cpu(),
        "captured": torch.from_numpy(captured.log_prob(rows.numpy())),
    }
    found: dict[str, Any] = {
        "size": [subject.dims, subject.hidden, subject.layers],
        "answered_by": scorer.answered_by,
        "operations_per_row": subject.useful_operations(),
        "handler_one_row": handler,
        "error": {name: apart(answers, reference) for name, answers in errors.items()},
        "batches": [],
    }
    for count in plan.batches:
        data = rows[torch.arange(count) % len(rows)]
        there, draws, array = data.to(device), torch.randn(count, subject.dims, device=device), data.numpy()
        calls: dict[str, Call] = {
            "scorer": lambda array=array: scorer.log_prob(array),  # type: ignore[misc]
            "kernel": finished(lambda there=there: fused.log_prob(there), device),  # type: ignore[misc]
            "kernel, sample": finished(lambda draws=draws: fused.sample(draws), device),  # type: ignore[misc]
            "captured": lambda array=array: captured.log_prob(array),  # type: ignore[misc]
        }
        with torch.inference_mode():
            times = interleaved(calls, plan.effort)
        share = subject.useful_operations() * count / times["kernel"]["ms"] / 1e9 / peak
        found["batches"].append({"rows": count, "times": times, "share_of_peak": share})
    return found


def handler_call(folder: Path, device: str) -> Call:
    """The TorchServe handler in ``folder``, asked for one row by an envelope, as the gateway asks."""
    handler = DensityHandler()
    gpu = None if device == "cpu" else torch.device(device).index
    context = SimpleNamespace(
        system_properties={"model_dir": str(folder), "gpu_id": gpu},
        manifest={"model": {"modelName": "measured", "modelVersion": "1"}},
        get_request_header=lambda index, key: None,
        set_response_content_type=lambda index, kind: None,
        set_response_status=lambda code, phrase, index: None,
    )
    handler.initialize(context)
    row = torch.zeros(1, handler._scorer.event_size).numpy()
    request = [{"envelope": pack({"op": "log_prob"}, {"rows": row})}]
    return lambda: handler.handle(request, context)


def apart(answers: torch.Tensor, reference: torch.Tensor) -> dict[str, float]:
    error = (answers.double() - reference).abs()
    return {"max": float(error.max()), "median": float(error.median())}


def training_step(plan: Plan, device: str) -> dict[str, Any]:
    """Forward and backward of the mean negative log-density, of one layer, ours and FlowTorch's."""
    dims, hidden, batch = plan.training
    rows = torch.randn(batch, dims, device=device)
    flows: dict[str, Any] = {"flowmodel": Subject(dims, hidden).flow.to(device)}
    if "FlowTorch" in peers.installed():
        flows["FlowTorch"] = peers.flowtorch_flow(dims, hidden).to(device)
        flows["FlowTorch"].base_dist = on_device(dims, device)

    def step(flow: Any) -> None:
        flow.zero_grad()
        (-flow.log_prob(rows).mean()).backward()

    calls = {name: finished(lambda flow=flow: step(flow), device) for name, flow in flows.items()}  # type: ignore[misc]
    return {"size": [dims, hidden, batch], "times": interleaved(calls, plan.effort)}


def on_device(dims: int, device: str) -> torch.distributions.Distribution:
    zeros = torch.zeros(dims, device=device)
    return torch.distributions.Independent(torch.distributions.Normal(zeros, torch.ones_like(zeros)), 1)


def verdicts(flows: list[dict[str, Any]], training: dict[str, Any]) -> Iterator[Verdict]:
    """Every target that these figures say something about."""
    for flow in flows:
        size = tuple(flow["size"])
        where = ", ".join(map(str, size))
        if size in ONE_ROW_MILLISECONDS:
            one_row = flow["handler_one_row"]["ms"]
            yield Verdict("one row in the handler, ms", where, one_row, ONE_ROW_MILLISECONDS[size], True)
        large = [batch for batch in flow["batches"] if batch["rows"] >= FROM_BATCH]
        if size in ROWS_PER_SECOND and large:
            slowest = min(rows_per_second(batch, "kernel") for batch in large)
            what = f"kernel, rows/s, slowest from {FROM_BATCH} rows"
            yield Verdict(what, where, slowest, ROWS_PER_SECOND[size], False)
    times = training["times"]
    if "FlowTorch" in times and tuple(training["size"]) == FULL.training:
        ratio = times["FlowTorch"]["ms"] / times["flowmodel"]["ms"]
        where = ", ".join(map(str, training["size"]))
        yield Verdict("FlowTorch / training step", where, ratio, TRAINING_STEP, False)


def rows_per_second(batch: dict[str, Any], name: str) -> float:
    return float(batch["rows"] / batch["times"][name]["ms"] * 1e3)


def page(about: dict[str, str], peak: float, flows: list[dict[str, Any]], training: dict[str, Any]) -> str:
    """The Markdown of all of it."""
    lines = ["# On a GPU", "", f"`{about['command']}` on {about['device']}, torch {about['torch']}. Float32, TF32 off."]
    lines += [f"The card multiplies float32 matrices at {peak:.3g} TFLOP/s.", ""]
    for flow in flows:
        dims, hidden, layers = flow["size"]
        lines += [f"## D = {dims}, H = {hidden}, {layers} layers", ""]
        lines += [f"One row in the handler: {shown(flow['handler_one_row'])}, answered by {flow['answered_by']}.", ""]
        names = list(flow["batches"][0]["times"])
        lines += ["| rows | " + " | ".join(f"{name}, rows/s" for name in names) + " | kernel, share of peak |"]
        lines += ["|---" * (len(names) + 2) + "|"]
        for batch in flow["batches"]:
            cells = [f"{rows_per_second(batch, name):,.0f} ({shown(batch['times'][name])})" for name in names]
            lines.append(f"| {batch['rows']} | {' | '.join(cells)} | {batch['share_of_peak']:.2f} |")
        lines += ["", "| error of the log-density against float64, nats | median | max |", "|---|---|---|"]
        lines += [f"| {name} | {e['median']:.1e} | {e['max']:.1e} |" for name, e in flow["error"].items()]
        lines.append("")
    steps = ", ".join(f"{name} {shown(timing)}" for name, timing in training["times"].items())
    lines += ["## Training step", "", f"D, H, B = {', '.join(map(str, training['size']))}, one layer: {steps}.", ""]
    found = list(verdicts(flows, training))
    if found:
        lines += ["## Targets", "", "| what | D, H, ... | measured | target | |", "|---|---|---|---|---|"]
    for each in found:
        target = f"at {'most' if each.at_most else 'least'} {each.target:,g}"
        reached = "reached" if each.reached else "missed"
        lines.append(f"| {each.what} | {each.where} | {each.measured:,.4g} | {target} | {reached} |")
    return "\n".join([*lines, ""])


def shown(timing: Timing) -> str:
    return f"{timing['ms']:.3g} ms" if "ms" in timing else str(timing["skipped"])


if __name__ == "__main__":
    main()
