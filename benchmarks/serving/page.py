"""The rows as a Markdown page."""

from __future__ import annotations

import statistics
from typing import Any

from reporting.markdown import number, table
from reporting.verdict import summary, verdict_table

from serving import targets
from serving.subjects import ARCHIVE, SERVERS
from serving.targets import BEST_TORCHSERVE, LOAD, SCORER, Cells

Row = dict[str, Any]


def markdown(rows: list[Row], heading: str) -> str:
    """The page.

    Args:
        rows: as recorded.
        heading: the paragraph with command, machine and versions.
    """
    parts = ["# The service, measured", "", heading, "", _disturbance(rows), ""]
    found = targets.verdicts(rows)
    if found:
        parts += [f"## Targets: {summary(found)}", "", _RATIOS, "", verdict_table(found, "where"), ""]
    cells = Cells(rows)
    loaded = [(count, together) for count, together in cells.sizes() if together > 1]
    for count in sorted({count for count, _ in loaded}):
        parts += [f"## {count} row{'s' if count > 1 else ''} in a request", ""]
        parts += [_throughput(cells, count, [together for rows_, together in loaded if rows_ == count]), ""]
    parts += ["## One request at a time, one row", "", _LATENCY, "", _latency(cells, rows), ""]
    parts += ["## The servers", "", _SERVERS, "", _servers(rows), ""]
    return "\n".join(parts)


_RATIOS = """\
Requests answered in a second over those of the other server, as the median over rounds of the ratio within a round.
"TorchServe, the better one" is, of TorchServe with one worker and with one for each core, the faster in that round."""

_LATENCY = """\
Milliseconds from request to answer over a connection that is open. "Engine" is what the gateway calls: the scorer
within a Python program, and TorchServe with our archive, called as the gateway calls it."""

_SERVERS = """\
Each serves the same `scorer.pt`, one after the other, from one process but for what is said here; none asks for
credentials or writes a line for each request. The peers call the TorchScript with one torch thread, as two that wait
for each other take the cores from the rest of the server, and at most 4096 rows at once, as more leave the caches."""


def _disturbance(rows: list[Row]) -> str:
    shares = [cell["others"] for row in rows for cell in row.get("cells", ()) if cell.get("others") is not None]
    if not shares:
        return "What other programs used of the cores is not known."
    text = (
        f"Other programs used {100 * statistics.median(shares):.0f} % of the cores during the median figure, at most "
    )
    return f"{text}{100 * max(shares):.0f} %."


def _throughput(cells: Cells, rows: int, inflight: list[int]) -> str:
    heads = ["server"]
    for together in inflight:
        heads += [f"{together} in flight, requests/s", "/ TorchServe", "p50 ms", "p99 ms", "server's CPU, µs/request"]

    def line(subject: str) -> list[str]:
        content = [subject]
        for together in inflight:
            rate = cells.median(subject, rows, together)
            if not rate:
                content += [cells.failure(subject, rows, together) or "", "", "", "", ""]
                continue
            figures = [cells.median(subject, rows, together, name) for name in ("p50", "p99", "cpu_us")]
            ratio = cells.ratio(subject, BEST_TORCHSERVE, rows, together)
            content += [number(rate), number(ratio), *map(number, figures)]
        return [text.replace("\n", " ").replace("|", " ") for text in content]

    subjects = [name for server in SERVERS.values() for name in server.subjects if name != ARCHIVE]
    return table(heads, (each for each in map(line, subjects) if any(each[1:])))


def _latency(cells: Cells, rows: list[Row]) -> str:
    alone = [row["p50"] for row in rows if row["section"] == SCORER]
    lines = [["engine: the scorer, called in Python", number(statistics.median(alone)), ""]] if alone else []
    for server in SERVERS.values():
        for subject in server.subjects:
            median, tail = (cells.median(subject, 1, 1, name) for name in ("p50", "p99"))
            if median is not None:
                name = f"engine: {subject}" if subject == ARCHIVE else subject
                lines.append([name, number(median), number(tail)])
    return table(["what", "p50 ms", "p99 ms"], lines)


def _servers(rows: list[Row]) -> str:
    lines = []
    for name, server in SERVERS.items():
        found = [row for row in rows if row["section"] == LOAD and row["key"][0] == name]
        if found:
            start, memory = (statistics.median(row[key] for row in found) for key in ("start_seconds", "megabytes"))
            lines.append([name, server.what, number(start), number(memory)])
    return table(["server", "how", "first answer after s", "resident MB"], lines)
