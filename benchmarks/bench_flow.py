"""Density and training of one affine autoregressive layer, beside FlowTorch, zuko and nflows in the same process.

    make bench

Float32, two hidden layers, medians of interleaved repetitions. "Dense pass" is one forward pass of the same network
with its masks folded. FlowTorch, zuko and nflows have networks of the same sizes. For the density, zuko and nflows are
timed in the direction that needs the inverse; zuko's training step is in its single-pass direction, which compares
with our ``Invert``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import flowmodel.bijectors as bij
import flowmodel.distributions as dist
import flowmodel.parameters as params
from flowmodel.artefact.scorer import export_scorer

warnings.simplefilter("ignore")

SIZES = [(8, 128, 4096), (21, 256, 4096), (63, 512, 1024), (21, 256, 1)]
RESULTS = Path(__file__).parent / "results"
PEERS = ("flowtorch", "zuko", "nflows")

Call = Callable[[], Any]


def normal(dims: int, dtype: torch.dtype = torch.float32) -> torch.distributions.Distribution:
    zeros = torch.zeros(dims, dtype=dtype)
    return torch.distributions.Independent(torch.distributions.Normal(zeros, torch.ones_like(zeros)), 1)


def ours(dims: int, hidden: int, *, invert: bool = False) -> dist.Flow:
    plan: bij.BijectorPlan = bij.AffineAutoregressive(params.DenseAutoregressive((hidden, hidden)))
    flow = dist.Flow(normal(dims), bij.Invert(plan) if invert else plan)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return flow


def flowtorch(dims: int, hidden: int) -> Any:
    import flowtorch.bijectors
    import flowtorch.distributions
    import flowtorch.parameters

    plan = flowtorch.bijectors.AffineAutoregressive(
        flowtorch.parameters.DenseAutoregressive(hidden_dims=(hidden, hidden))
    )
    return flowtorch.distributions.Flow(normal(dims), plan)


def zuko(dims: int, hidden: int) -> Any:
    from zuko.flows import MAF

    return MAF(dims, 0, transforms=1, hidden_features=(hidden, hidden))


def nflows(dims: int, hidden: int) -> Any:
    from nflows.transforms.autoregressive import MaskedAffineAutoregressiveTransform

    return MaskedAffineAutoregressiveTransform(dims, hidden, num_blocks=2, use_residual_blocks=False)


def without_gradient(call: Call) -> Call:
    def run() -> None:
        with torch.no_grad():
            call()

    return run


def step(log_prob: Callable[[], torch.Tensor], module: torch.nn.Module) -> Call:
    def run() -> None:
        module.zero_grad()
        (-log_prob().mean()).backward()

    return run


def standard_normal_log_prob(x: torch.Tensor) -> torch.Tensor:
    return -0.5 * (x**2).sum(-1)


def density_calls(dims: int, hidden: int, rows: torch.Tensor, scorer: Any, flow: dist.Flow) -> dict[str, Call]:
    made = flow.bijector.made
    weights = [weight.detach() for weight in made.folded_weights()]
    biases = [bias.detach() for bias in made.biases]
    linear = torch.nn.functional.linear

    def dense_pass() -> torch.Tensor:
        hidden_units = torch.relu(linear(rows, weights[0], biases[0]))
        hidden_units = torch.relu(linear(hidden_units, weights[1], biases[1]))
        return linear(hidden_units, weights[2], biases[2])

    peer_flowtorch, peer_zuko, peer_nflows = flowtorch(dims, hidden), zuko(dims, hidden)(), nflows(dims, hidden)
    return {
        "dense pass": dense_pass,
        "ours, exported": lambda: scorer.log_prob(rows),
        "ours, eager": lambda: flow.log_prob(rows),
        "FlowTorch": lambda: peer_flowtorch.log_prob(rows),
        "zuko": lambda: peer_zuko.transform.inv.call_and_ladj(rows),
        "nflows": lambda: peer_nflows.inverse(rows),
    }


def training_calls(dims: int, hidden: int, rows: torch.Tensor, flow: dist.Flow) -> dict[str, Call]:
    single, peer_flowtorch, peer_zuko = ours(dims, hidden, invert=True), flowtorch(dims, hidden), zuko(dims, hidden)
    peer_nflows = nflows(dims, hidden)

    def nflows_log_prob() -> torch.Tensor:
        noise, log_det = peer_nflows.inverse(rows)
        return standard_normal_log_prob(noise) + log_det

    return {
        "ours": step(lambda: flow.log_prob(rows), flow),
        "FlowTorch": step(lambda: peer_flowtorch.log_prob(rows), peer_flowtorch),
        "nflows": step(nflows_log_prob, peer_nflows),
        "ours, Invert": step(lambda: single.log_prob(rows), single),
        "zuko, single pass": step(lambda: peer_zuko().log_prob(rows), peer_zuko),
    }


def medians(calls: dict[str, Call], repetitions: int) -> dict[str, float]:
    """Milliseconds of each call; the calls take turns, so that what disturbs the machine disturbs them all."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repetitions + 2):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if turn >= 2:
                times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in times.items()}


def measure(dims: int, hidden: int, batch: int) -> dict[str, Any]:
    torch.manual_seed(0)
    flow = ours(dims, hidden)
    rows = torch.randn(batch, dims)
    with tempfile.TemporaryDirectory() as folder:
        scorer = torch.jit.load(str(export_scorer(flow, f"{folder}/scorer.pt")))
    density = {name: without_gradient(call) for name, call in density_calls(dims, hidden, rows, scorer, flow).items()}
    with torch.no_grad():
        reference = dist.Flow(normal(dims, torch.float64), flow.plan)
        reference.load_state_dict(flow.state_dict())
        error = (scorer.log_prob(rows).double() - reference.log_prob(rows.double())).abs()
    return {
        "size": [dims, hidden, batch],
        "density_ms": medians(density, 9),
        "training_step_ms": medians(training_calls(dims, hidden, rows, flow), 5) if batch > 1 else {},
        "log_prob_error": {"max": float(error.max()), "median": float(error.median())},
    }


def table(results: list[dict[str, Any]], key: str, unit: str) -> str:
    names = list(results[0][key])
    lines = [f"| D, H, B | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for result in results:
        if not result[key]:
            continue
        base = result[key][unit]
        cells = [f"{value:.2f} ms ({value / base:.2f})" for value in result[key].values()]
        lines.append(f"| {', '.join(map(str, result['size']))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    results = [measure(*size) for size in SIZES]
    versions = {name: metadata.version(name) for name in ("torch", *PEERS)}
    machine = f"{processor()}, {torch.get_num_threads()} threads, Python {platform.python_version()}"
    errors = "\n".join(
        f"| {', '.join(map(str, result['size']))} | {result['log_prob_error']['median']:.1e} | "
        f"{result['log_prob_error']['max']:.1e} |"
        for result in results
    )
    text = "\n".join(
        [
            "# One affine autoregressive layer",
            "",
            f"`make bench` ({' '.join(['python', *sys.argv])}) on {machine}; "
            + ", ".join(f"{name} {version}" for name, version in versions.items())
            + ". Float32, medians of interleaved repetitions; in brackets the ratio to the first column.",
            "",
            "## Density through the exact inverse",
            "",
            table(results, "density_ms", "dense pass"),
            "",
            "## One training step, forward and backward of the mean log-likelihood",
            "",
            table(results, "training_step_ms", "ours"),
            "",
            "## Error of the exported log-density against float64, in nats",
            "",
            "| D, H, B | median | max |\n|---|---|---|",
            errors,
            "",
        ]
    )
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "flow.md").write_text(text)
    record = {"machine": machine, "versions": versions, "results": results}
    (RESULTS / "flow.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
