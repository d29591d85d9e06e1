"""The rows as a Markdown page."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from reporting.markdown import number, table
from reporting.verdict import DISTURBED, summary, verdict_table

from kernel import targets

Row = dict[str, Any]


def markdown(rows: list[Row], heading: str, figures: dict[str, str]) -> str:
    """The page.

    Args:
        rows: as recorded.
        heading: the paragraph with command, machine and versions.
        figures: file names of the plots, by what they show.
    """
    parts = ["# The native code, measured", "", heading, "", _disturbance(rows), ""]
    found = targets.verdicts(rows)
    if found:
        parts += [f"## Targets: {summary(found)}", "", verdict_table(found, "D, H, B"), ""]
    for title, text, tabled in (
        ("In short", _SHORT, _short),
        ("One layer", _LAYER, _layer),
        ("Exactness", _EXACTNESS, _exactness),
        ("Few rows and five layers", _STACK, _stack),
        ("Beside other libraries", _PEERS, _peers),
        ("Cost against the dimensions", _DIMENSIONS, _dimensions),
        ("One training step", _TRAINING, _training),
        ("Peak memory of a training step", _MEMORY, _memory),
        ("A first flow", _FIRST_FLOW, _first_flow),
    ):
        tables = tabled(rows)
        if tables:
            parts += [f"## {title}", "", text, "", tables, ""]
    for what, name in figures.items():
        parts += [f"![{what}]({name})", ""]
    return "\n".join(parts)


def time(row: Row, name: str) -> str:
    timing = row["times"].get(name, {})
    return timing["skipped"] if "skipped" in timing else number(timing.get("ms"))


def _disturbance(rows: list[Row]) -> str:
    shares = [row["others"] for row in rows if row.get("others") is not None]
    if not shares:
        return "What other programs used of the cores is not known."
    disturbed = sum(share > DISTURBED for share in shares)
    text = f"Other programs used {100 * statistics.median(shares):.0f} % of the cores in the median row, at most "
    text += f"{100 * max(shares):.0f} %"
    return text + (f"; more than {100 * DISTURBED:.0f} % in {disturbed} of {len(shares)} rows." if disturbed else ".")


_SHORT = (
    """Milliseconds, with the most threads; FlowTorch with the same weights, and its training step at the same size."""
)

_LAYER = """\
Milliseconds; in brackets in dense passes. A dense pass is the layer's network once over the rows, masks folded, by
`F.linear`, without the scale and shift that follow. `log_prob` is the exact inverse with its log-density through
`Scorer`; `sample` makes rows and their log-densities of noise that is given, as the dense pass is given its input;
`Scorer.sample` draws the noise as well, by seed. GFLOP/s count the weights that the masks leave; the peak is the best
square float32 product of torch, which took turns with the rest."""

_EXACTNESS = """\
Log-density in nats against a float64 reference that shares no code with the library. The residual is the largest of
abs(g(x) - y) / max(1, abs(y)) with g in float64 and x what the inverse found. Float32 rounds to 6e-8."""

_STACK = """\
Microseconds for one row, otherwise milliseconds. The kernel is the native code called by itself, in one thread;
`Scorer` checks its input and calls it, on more threads where there are rows enough."""

_PEERS = """\
Milliseconds. Each peer in one pass of its network and in its own loop of D passes, with log-determinant and base
density, so that a figure stands for a density as for a sample with its density; which of the two is the slow one
depends on how the flow was trained. Ours are both of one flow; `noise drawn` includes the noise by seed. FlowTorch and
Pyro compute the very same function, the others have the same network. FlowJAX is jitted and compiled before it is
timed. The last line is our error in nats."""

_DIMENSIONS = """\
Milliseconds, H = 512, B = 1024. Jacobi is the iteration of arXiv:2002.03629, dense passes over all dimensions until
they stand still in float32, on these flows, whose weights are small; steeper flows take it longer, up to D passes."""

_TRAINING = """\
Forward and backward of the mean negative log-density, milliseconds; in brackets in ours. `flowmodel`, FlowTorch and
the D passes of nflows train through the inverse of the network; the single pass goes the other way, as does ours in
`Invert`. The last column is the largest error of a gradient, relative to the largest entry of its tensor, against
float64 autograd through D dense passes, 64 rows."""

_MEMORY = """\
How far the resident memory of a process of its own rises in one step, in MB: resident memory, and not torch's count of
its own, because a library may take memory elsewhere."""

_FIRST_FLOW = """\
`examples/first_flow.py` (FlowTorch's introduction) at D = 2, H = 64, 1000 rows a step, with Adam: seconds of its loop,
in blocks of 100 steps that take turns."""


def _threads(rows: list[Row], section: str, lines: Callable[[list[Row]], str]) -> str:
    """A table for each number of threads."""
    tables = []
    for threads in sorted({row["threads"] for row in rows if row["section"] == section}, reverse=True):
        mine = [row for row in rows if row["section"] == section and row["threads"] == threads]
        plural = "s" if threads > 1 else ""
        tables.append(f"{threads} thread{plural}:\n\n{lines(sorted(mine, key=_by_size))}")
    return "\n\n".join(tables)


def _by_size(row: Row) -> list[Any]:
    # The name of a memory row comes after its size.
    key = row["key"]
    return [*key[1:], key[0]] if isinstance(key[0], str) else key


def _size(row: Row) -> str:
    return ", ".join(map(str, row["key"]))


def _with_ratio(row: Row, name: str, base: str) -> str:
    ratio = targets.ratio(row, name, base)
    return f"{time(row, name)} ({number(ratio)})" if ratio is not None else time(row, name)


def _short(rows: list[Row]) -> str:
    most = max((row["threads"] for row in rows), default=0)
    found = {(row["section"], *row["key"]): row for row in rows if row["threads"] == most}
    heads = ["D, H, B", "dense pass", "log_prob", "FlowTorch", "training step", "FlowTorch"]
    body = []
    for name, *size in found:
        if name == "training" and ("peers", *size) in found:
            density, step = found["peers", *size], found["training", *size]
            cells = [time(density, call) for call in ("dense pass", "log_prob", "FlowTorch, D passes")]
            body.append([_size(density), *cells, time(step, "flowmodel"), time(step, "FlowTorch")])
    return table(heads, body)


def _layer(rows: list[Row]) -> str:
    columns = {
        "log_prob": "log_prob",
        "sample": "sample",
        "Scorer.sample": "sample, noise drawn",
        "eager log_prob": "eager log_prob",
        "TorchScript log_prob": "TorchScript log_prob",
        "TorchScript sample": "TorchScript sample",
    }
    heads = ["D, H, B", "dense pass", *columns, "GFLOP/s log_prob", "sample", "peak", "share log_prob", "sample"]

    def lines(mine: list[Row]) -> str:
        body = []
        for row in mine:
            batch = row["key"][-1]
            work = [number(targets.gigaflops(row, name, batch)) for name in ("log_prob", "sample")]
            share = [number(targets.share_of_peak(row, name, batch)) for name in ("log_prob", "sample")]
            cells = [_with_ratio(row, name, "dense pass") for name in columns.values()]
            body.append([_size(row), time(row, "dense pass"), *cells, *work, number(targets.peak(row)), *share])
        return table(heads, body)

    return _threads(rows, "layer", lines)


def _exactness(rows: list[Row]) -> str:
    heads = ["threads", "D, H, B", "layers", "answered by", "d log q, median", "max", "residual"]
    body = []
    for row in sorted((row for row in rows if row["section"] in ("layer", "stack")), key=lambda row: -row["threads"]):
        layers, size = (1, row["key"]) if row["section"] == "layer" else (row["key"][0], row["key"][1:])
        errors = [f"{value:.1e}" for value in (row["error"]["median"], row["error"]["max"], row["residual"])]
        body.append([str(row["threads"]), ", ".join(map(str, size)), str(layers), row["answered_by"], *errors])
    return table(heads, body)


def _stack(rows: list[Row]) -> str:
    heads = ["layers, D, H, B", "dense passes", "kernel log_prob", "Scorer.log_prob", "sample", "TorchScript", "rows/s"]

    def lines(mine: list[Row]) -> str:
        body = []
        for row in mine:
            unit = 1e3 if row["key"][-1] == 1 else 1.0
            names = ("dense pass", "kernel log_prob", "log_prob", "sample", "TorchScript log_prob")
            times = [targets.milliseconds(row, name) for name in names]
            scorer = times[2]
            rate = number(row["key"][-1] / scorer * 1e3) if scorer else ""
            body.append([_size(row), *(number(None if t is None else unit * t) for t in times), rate])
        return table(heads, body)

    return _threads(rows, "stack", lines)


def _peers(rows: list[Row]) -> str:
    def lines(mine: list[Row]) -> str:
        return "\n\n".join(
            _peers_at([row for row in mine if tuple(row["key"][:2]) == size])
            for size in sorted({tuple(row["key"][:2]) for row in mine})
        )

    return _threads(rows, "peers", lines)


def _peers_at(mine: list[Row]) -> str:
    names = list(dict.fromkeys(name for row in mine for name in row["times"]))
    dims, hidden, _ = mine[0]["key"]
    body = [[name, *(time(row, name) for row in mine)] for name in names]
    body.append(["d log q, max", *(f"{row['error']['max']:.1e}" for row in mine)])
    return table([f"D = {dims}, H = {hidden}", *(f"B = {row['key'][2]}" for row in mine)], body)


def _dimensions(rows: list[Row]) -> str:
    def lines(mine: list[Row]) -> str:
        names = list(dict.fromkeys(name for row in mine for name in row["times"]))
        return table(["D", *names], ([_size(row), *(time(row, name) for name in names)] for row in mine))

    return _threads(rows, "dimensions", lines)


def _training(rows: list[Row]) -> str:
    def lines(mine: list[Row]) -> str:
        names = list(dict.fromkeys(name for row in mine for name in row["times"]))
        heads = ["D, H, B", *names, "gradient error"]
        cells = ([_with_ratio(row, name, "flowmodel") for name in names] for row in mine)
        return table(heads, ([_size(r), *c, f"{r['gradient_error']:.1e}"] for r, c in zip(mine, cells, strict=True)))

    return _threads(rows, "training", lines)


def _memory(rows: list[Row]) -> str:
    def lines(mine: list[Row]) -> str:
        names = list(dict.fromkeys(row["key"][0] for row in mine))
        sizes = sorted({tuple(row["key"][1:]) for row in mine})
        used = {tuple(row["key"]): row["megabytes"] for row in mine}
        return table(
            ["D, H, B", *names],
            ([", ".join(map(str, size)), *(number(used.get((name, *size))) for name in names)] for size in sizes),
        )

    return _threads(rows, "memory", lines)


def _first_flow(rows: list[Row]) -> str:
    def lines(mine: list[Row]) -> str:
        names = list(dict.fromkeys(name for row in mine for name in row["seconds"]))
        return table(
            ["steps", *names], ([str(row["steps"]), *(number(row["seconds"].get(n)) for n in names)] for row in mine)
        )

    return _threads(rows, "first_flow", lines)
