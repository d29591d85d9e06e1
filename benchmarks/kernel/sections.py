"""What is measured, a row at a time. A section is a function of one row's key that gives its figures."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernel import machine, peers, training
from kernel.memory import peak_of_step
from kernel.stopwatch import Call, Effort, interleaved
from kernel.subject import Exported, Subject

Key = list[Any]
Row = dict[str, Any]

SIZES = [[2, 64, 4096], [8, 128, 4096], [21, 256, 4096], [63, 512, 1024], [63, 1024, 1024], [784, 1024, 256]]
BATCHES = [1, 16, 256, 1024, 4096, 65536]
SWEPT_HIDDEN, SWEPT_BATCH = 512, 1024
FIRST_FLOW_ROWS, FIRST_FLOW_BLOCK = 1000, 100


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a run measures.

    Args:
        threads: of every library.
        effort: time for each call.
        peers: that are measured.
        steps: of the loop of the first flow.
    """

    threads: int
    effort: Effort
    peers: list[str]
    steps: int = 3001


def layer(key: Key, settings: Settings) -> Row:
    """One layer of a size (D, H, B): times, work, exactness."""
    dims, hidden, batch = key
    subject = Subject(dims, hidden, threads=settings.threads)
    return _figures(subject, batch, settings)


def stack(key: Key, settings: Settings) -> Row:
    """A flow of some layers at a size: (layers, D, H, B)."""
    layers, dims, hidden, batch = key
    return _figures(Subject(dims, hidden, layers, settings.threads), batch, settings)


def _figures(subject: Subject, batch: int, settings: Settings) -> Row:
    noise, rows = subject.rows(batch)
    exported = subject.exported()
    # The native code by itself, in this thread; the scorer calls it, on several threads where there are rows enough.
    calls = _own_calls(subject, exported, noise, rows)
    native, array = exported.native, rows.numpy()
    if native is not None:
        calls["kernel log_prob"] = lambda: native.log_prob(array)
    size = max(machine.MATRIX_SIZES, key=_rate)
    left, right, product = machine.matrix_product(size)
    calls["matrix product"] = lambda: torch.mm(left, right, out=product)
    with torch.no_grad():
        times = interleaved(calls, settings.effort)
    return {
        "times": times,
        "operations_per_row": subject.useful_operations(),
        "matrix_operations": 2 * size**3,
        "answered_by": exported.answered_by,
        **_exactness(subject, exported, noise, rows),
    }


def _own_calls(subject: Subject, exported: Exported, noise: Tensor, rows: Tensor) -> dict[str, Call]:
    array, given = rows.numpy(), noise.numpy()
    return {
        "dense pass": lambda: subject.dense_pass(rows),
        "log_prob": lambda: exported.scorer.log_prob(array),
        "sample": lambda: exported.sample(given),
        "sample, noise drawn": lambda: exported.scorer.sample([(7, 0, len(given))]),
        "eager log_prob": lambda: subject.flow.log_prob(rows),
        "TorchScript log_prob": lambda: exported.script.log_prob(rows),
        "TorchScript sample": lambda: exported.script.sample(noise),
    }


def _rate(size: int) -> float:
    left, right, product = machine.matrix_product(size)
    return 2 * size**3 / min(_seconds(lambda: torch.mm(left, right, out=product)) for _ in range(6))


def _seconds(call: Call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _exactness(subject: Subject, exported: Exported, noise: Tensor, rows: Tensor) -> Row:
    error = np.abs(exported.scorer.log_prob(rows.numpy()) - subject.reference(rows, noise).numpy())
    # What solves for x, given y, is the push of the inverted flow.
    found = torch.from_numpy(subject.exported(subject.inverted()).sample(rows.double().numpy())[0])
    with torch.no_grad():
        back = subject.push(found)[-1]
    residual = (back - rows.double()).abs() / rows.double().abs().clamp(min=1.0)
    return {
        "error": {"max": float(error.max()), "median": float(np.median(error))},
        "residual": float(residual.max()),
    }


def beside_peers(key: Key, settings: Settings) -> Row:
    """Peers at a size and batch (D, H, B), in both of their directions."""
    dims, hidden, batch = key
    subject = Subject(dims, hidden, threads=settings.threads)
    noise, rows = subject.rows(batch)
    exported = subject.exported()
    own = _own_calls(subject, exported, noise, rows)
    calls = {name: own[name] for name in ("dense pass", "log_prob", "sample", "sample, noise drawn")}
    of_peers, expected = _of_peers(subject, rows, settings.peers)
    # So many calls and rows of them that half the time for each has to do.
    effort = dataclasses.replace(settings.effort, seconds=settings.effort.seconds / 2)
    with torch.no_grad():
        times = interleaved(calls | of_peers, effort, expected)
    count = min(batch, 4096)
    error = np.abs(
        exported.scorer.log_prob(rows.numpy())[:count] - subject.reference(rows[:count], noise[:count]).numpy()
    )
    return {"times": times, "error": {"max": float(error.max()), "median": float(np.median(error))}}


def _of_peers(subject: Subject, rows: Tensor, names: list[str]) -> tuple[dict[str, Call], dict[str, float]]:
    """The calls of these peers, and how many seconds D passes are expected to take: D times one."""
    calls, expected = {}, {}
    for name in names:
        single_pass, d_passes = peers.directions(name, subject, rows)
        calls[f"{name}, single pass"], calls[f"{name}, D passes"] = single_pass, d_passes
        expected[f"{name}, D passes"] = subject.dims * min(_seconds(single_pass) for _ in range(3))
    return calls, expected


def dimensions(key: Key, settings: Settings) -> Row:
    """Cost against D, at one width and batch: the key is [D]."""
    (dims,) = key
    subject = Subject(dims, SWEPT_HIDDEN, threads=settings.threads)
    noise, rows = subject.rows(SWEPT_BATCH)
    exported = subject.exported()
    own = _own_calls(subject, exported, noise, rows)
    calls = {name: own[name] for name in ("dense pass", "log_prob", "sample", "TorchScript log_prob")}
    calls["Jacobi"] = lambda: subject.jacobi(rows)
    names = [name for name in settings.peers if name in ("FlowTorch", "zuko", "FlowJAX")]
    of_peers, expected = _of_peers(subject, rows, names)
    calls |= {name: call for name, call in of_peers.items() if "D passes" in name or name.startswith("zuko")}
    with torch.no_grad():
        times = interleaved(calls, settings.effort, expected)
    return {"times": times, "operations_per_row": subject.useful_operations()}


def steps(key: Key, settings: Settings) -> Row:
    """A training step at a size (D, H, B)."""
    dims, hidden, batch = key
    rows = Subject(dims, hidden).rows(batch)[1]
    calls = {name: training.step(training.build(name, dims, hidden), rows) for name in training.offered(settings.peers)}
    effort = dataclasses.replace(settings.effort, seconds=3 * settings.effort.seconds)
    return {
        "times": interleaved(calls, effort),
        "gradient_error": training.gradient_error(Subject(dims, hidden), rows[:64]),
    }


def memory(key: Key, settings: Settings) -> Row:
    """Peak memory of a step, for one name and size: [name, D, H, B]."""
    name, dims, hidden, batch = key
    return {"megabytes": peak_of_step(name, dims, hidden, batch)}


def first_flow(key: Key, settings: Settings) -> Row:
    """FlowTorch's introduction, ``examples/first_flow.py``, at [D, H]: its loop in blocks that take turns."""
    dims, hidden = key
    names = [name for name in training.offered(settings.peers, d_passes=False) if name != training.OURS_INVERTED]
    target = torch.distributions.Independent(
        torch.distributions.Normal(torch.zeros(dims) + 5, torch.ones(dims) * 0.5), 1
    )
    loops = {name: _loop(name, dims, hidden, target) for name in names}
    seconds = dict.fromkeys(names, 0.0)
    done = 0
    while done < settings.steps:
        block = min(FIRST_FLOW_BLOCK, settings.steps - done)
        for name in names:
            begin = time.perf_counter()
            for _ in range(block):
                loops[name]()
            seconds[name] += time.perf_counter() - begin
        done += block
    return {"steps": done, "seconds": {name: round(value, 3) for name, value in seconds.items()}}


def _loop(name: str, dims: int, hidden: int, target: torch.distributions.Distribution) -> Call:
    torch.manual_seed(1)
    module, log_prob = training.build(name, dims, hidden)
    optimiser = torch.optim.Adam(module.parameters(), lr=5e-3)

    def run() -> None:
        optimiser.zero_grad()
        loss = -log_prob(target.sample((FIRST_FLOW_ROWS,))).mean()
        loss.backward()
        optimiser.step()

    return run


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the benchmark.

    Args:
        measure: from a row's key and the settings to its figures.
        keys: of its rows, given which peers there are.
        quick: the keys of ``--quick``.
        alone: whether each row needs a process of its own.
        both: whether it is measured for every number of threads, or only the largest.
    """

    measure: Callable[[Key, Settings], Row]
    keys: Callable[[list[str]], list[Key]]
    quick: Callable[[list[str]], list[Key]]
    alone: bool = False
    both: bool = True


def _peer_keys(_: list[str]) -> list[Key]:
    keys = [[dims, hidden, batch] for dims, hidden, _ in SIZES[:4] for batch in BATCHES]
    return keys + [[dims, hidden, batch] for dims, hidden, most in SIZES[4:] for batch in (1, most)]


def _memory_keys(chosen: list[str]) -> list[Key]:
    return [[name, *size] for size in SIZES[2:4] for name in training.offered(chosen, d_passes=False)]


SECTIONS = {
    "layer": Section(layer, lambda _: SIZES, lambda _: SIZES[1:4]),
    "stack": Section(
        stack,
        lambda _: [[1, 63, 512, 1], [5, 21, 512, 1], [5, 21, 512, 4096]],
        lambda _: [[1, 63, 512, 1], [5, 21, 512, 1]],
    ),
    "dimensions": Section(
        dimensions,
        lambda _: [[dims] for dims in (2, 4, 8, 16, 32, 64, 128, 256, 512)],
        lambda _: [[2], [16], [64]],
        both=False,
    ),
    "training": Section(steps, lambda _: SIZES[1:4], lambda _: SIZES[2:3]),
    "memory": Section(memory, _memory_keys, lambda chosen: _memory_keys(chosen)[:0], alone=True, both=False),
    "first_flow": Section(first_flow, lambda _: [[2, 64]], lambda _: [[2, 64]]),
    "peers": Section(
        beside_peers,
        _peer_keys,
        lambda _: [[21, 256, 1], [21, 256, 256], [63, 512, 1]],
    ),
}
