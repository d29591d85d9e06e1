"""The targets, and whether what was measured reaches them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reporting.verdict import Verdict

Row = dict[str, Any]

LOG_PROB_LIMITS = {
    (2, 64, 4096): 0.40,
    (8, 128, 4096): 0.30,
    (21, 256, 4096): 0.30,
    (63, 512, 1024): 0.30,
    (63, 1024, 1024): 0.30,
    (784, 1024, 256): 0.40,
}
"""log_prob in dense passes, at each (D, H, B)."""

SAMPLE_LIMIT, SCRIPT_LIMIT = 0.35, 2.0
PEAK_SHARE, PEAK_SIZES = 0.7, list(LOG_PROB_LIMITS)[1:5]
FLOWTORCH_LOG_PROB = {21: 100.0, 63: 250.0}
FLOWTORCH_ONE_ROW = 40.0
ONE_ROW_MICROSECONDS = {(1, 63, 512): 60.0, (5, 21, 512): 200.0}
STACK_ROWS_PER_SECOND = 180_000.0
FLOWTORCH_STEP = {(21, 256, 4096): 40.0, (63, 512, 1024): 100.0}
ZUKO_STEP, ZUKO_MEMORY, FIRST_FLOW = 0.6, 1.0, 3.0


def milliseconds(row: Row, name: str) -> float | None:
    """The median of a call, or ``None`` where it was skipped or not made."""
    value: float | None = row["times"].get(name, {}).get("ms")
    return value


def ratio(row: Row, name: str, base: str) -> float | None:
    """Time of ``name`` in times of ``base``.

    Example:
        >>> ratio({"times": {"a": {"ms": 1.0}, "b": {"ms": 4.0}, "c": {"skipped": "> 8 s"}}}, "b", "a")
        4.0
    """
    above, below = milliseconds(row, name), milliseconds(row, base)
    return above / below if above is not None and below else None


def gigaflops(row: Row, name: str, batch: int) -> float | None:
    """Useful work of ``name`` over ``batch`` rows: the weights that the masks leave, times two."""
    time = milliseconds(row, name)
    return row["operations_per_row"] * batch / time / 1e6 if time else None


def peak(row: Row) -> float:
    """GFLOP/s of the matrix product that took turns with this row's calls."""
    return row["matrix_operations"] / row["times"]["matrix product"]["ms"] / 1e6


def share_of_peak(row: Row, name: str, batch: int) -> float | None:
    work = gigaflops(row, name, batch)
    return work / peak(row) if work is not None else None


def verdicts(rows: list[Row]) -> list[Verdict]:
    """Every target that these rows say something about, in the order of the issue that set them."""
    found = [each for row in rows for each in _of_row(row)]
    found += _ahead(rows)
    found += _memory(rows)
    return sorted(found, key=lambda each: (-(each.threads or 0), _ORDER.index(each.what.split(",")[0])))


_ORDER = [
    "log_prob / dense pass",
    "log_prob share of peak",
    "sample / dense pass",
    "TorchScript log_prob / dense pass",
    "FlowTorch / log_prob",
    "closest peer / log_prob",
    "closest peer / sample",
    "one row",
    "five layers",
    "FlowTorch / training step",
    "training step / zuko's single pass",
    "peak memory of a step / zuko's",
    "first flow",
]


def _of_row(row: Row) -> Iterator[Verdict]:
    section, threads, key = row["section"], row["threads"], tuple(row["key"])

    def verdict(what: str, measured: float | None, target: float, *, at_most: bool) -> Iterator[Verdict]:
        if measured is not None:
            yield Verdict(what, ", ".join(map(str, key)), measured, target, at_most, row.get("others"), threads)

    if section == "layer" and key in LOG_PROB_LIMITS:
        limit = LOG_PROB_LIMITS[key]
        yield from verdict("log_prob / dense pass", ratio(row, "log_prob", "dense pass"), limit, at_most=True)
        if key in PEAK_SIZES:
            share = share_of_peak(row, "log_prob", key[2])
            yield from verdict("log_prob share of peak", share, PEAK_SHARE, at_most=False)
        yield from verdict("sample / dense pass", ratio(row, "sample", "dense pass"), SAMPLE_LIMIT, at_most=True)
        if key[2] >= 1024:
            script = ratio(row, "TorchScript log_prob", "dense pass")
            yield from verdict("TorchScript log_prob / dense pass", script, SCRIPT_LIMIT, at_most=True)
    elif section == "peers":
        against = ratio(row, "FlowTorch, D passes", "log_prob")
        if key[2] == 1 and key[0] >= 21:
            yield from verdict("FlowTorch / log_prob", against, FLOWTORCH_ONE_ROW, at_most=False)
        elif key[0] in FLOWTORCH_LOG_PROB and key[2] >= 1024:
            yield from verdict("FlowTorch / log_prob", against, FLOWTORCH_LOG_PROB[key[0]], at_most=False)
    elif section == "stack" and key[3] == 1 and key[:3] in ONE_ROW_MICROSECONDS:
        time = milliseconds(row, "kernel log_prob")
        microseconds = None if time is None else 1e3 * time
        yield from verdict("one row, microseconds", microseconds, ONE_ROW_MICROSECONDS[key[:3]], at_most=True)
    elif section == "stack" and key == (5, 21, 512, 4096):
        time = milliseconds(row, "log_prob")
        rows_per_second = key[3] / time * 1e3 if time else None
        yield from verdict("five layers, rows/s", rows_per_second, STACK_ROWS_PER_SECOND, at_most=False)
    elif section == "training" and key in FLOWTORCH_STEP:
        against = ratio(row, "FlowTorch", "flowmodel")
        yield from verdict("FlowTorch / training step", against, FLOWTORCH_STEP[key], at_most=False)
        zuko = ratio(row, "flowmodel", "zuko, single pass")
        yield from verdict("training step / zuko's single pass", zuko, ZUKO_STEP, at_most=True)
    elif section == "first_flow" and "FlowTorch" in row["seconds"]:
        against = row["seconds"]["FlowTorch"] / row["seconds"]["flowmodel"]
        what = f"first flow, {row['steps']} steps, FlowTorch / ours"
        yield from verdict(what, against, FIRST_FLOW, at_most=False)


def _ahead(rows: list[Row]) -> Iterator[Verdict]:
    """For each peer the case in which it comes closest, of all sizes, batches and both of its directions."""
    closest: dict[tuple[int, str, str], tuple[float, str, float | None]] = {}
    for row in rows:
        if row["section"] != "peers":
            continue
        for name in row["times"]:
            peer, _, direction = name.partition(", ")
            if direction not in ("single pass", "D passes"):
                continue
            for own in ("log_prob", "sample"):
                times = ratio(row, name, own)
                case = (row["threads"], own, peer)
                if times is not None and (case not in closest or times < closest[case][0]):
                    closest[case] = times, f"{', '.join(map(str, row['key']))}, {direction}", row.get("others")
    for (threads, own, peer), (times, where, others) in closest.items():
        yield Verdict(f"closest peer / {own}, {peer}", where, times, 1.0, False, others, threads)


def _memory(rows: list[Row]) -> Iterator[Verdict]:
    used = {
        (row["threads"], *row["key"]): row["megabytes"]
        for row in rows
        if row["section"] == "memory"
        if row["megabytes"]
    }
    for (threads, name, *size), megabytes in used.items():
        zuko = used.get((threads, "zuko, single pass", *size))
        if name == "flowmodel" and zuko:
            where = ", ".join(map(str, size))
            yield Verdict("peak memory of a step / zuko's", where, megabytes / zuko, ZUKO_MEMORY, True, None, threads)
