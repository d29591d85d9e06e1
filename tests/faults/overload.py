"""A queue oversubscribed ten times: what is still answered, how soon, and how soon the rest is refused.

    make overload                            # recorded in benchmarks/results/overload.{md,json}
    make overload ENGINE=inprocess

Capacity is what a few clients get that ask again as soon as they are answered, and never fill the queue. Then ten times
as many requests a second are sent as the capacity, whatever becomes of them. Both take turns, so that the machine's
mood is in either; the figures are medians of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
from publishing import publish
from served import Served

from flowmodel.artefact.store import ModelStore
from flowmodel.runtime.scoring import Scorer
from service.generated.density.v1 import density_service_pb2 as pb
from service.generated.density.v1.density_service_pb2_grpc import DensityServiceStub
from service.tensors import decode, encode

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"

OVERSUBSCRIBED = 10
WIDTH = 768
"""Hidden units: a model so slow that answering takes the machine, and asking does not."""

ROWS = 8000
QUEUE_ROWS = 8 * ROWS
BATCH_ROWS = 2 * ROWS
CLIENTS = 4
"""Who measure the capacity; together they fill two batches and half of the queue."""


@dataclass
class Account:
    """What a spell of asking was answered.

    Attributes:
        seconds: how long it lasted.
        admitted: seconds that each answer took.
        refused: seconds that each refusal took.
        others: other codes.
    """

    seconds: float = 0.0
    admitted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Requests answered in a second."""
        return len(self.admitted) / self.seconds


class Crowd:
    """Requests of one model's rows, over one connection.

    Args:
        stub: of the service.
        expected: log-densities ``[N]`` of the rows.
        rows: ``[N, 3]``.
    """

    def __init__(self, stub: Any, rows: np.ndarray, expected: np.ndarray) -> None:
        self._stub, self._expected = stub, expected
        self._request = pb.LogProbRequest(model="wine", rows=encode(rows))

    async def capacity(self, seconds: float) -> Account:
        """As many as a few clients can have, one after the other each."""
        account, begin = Account(), time.monotonic()

        async def client() -> None:
            while time.monotonic() - begin < seconds:
                await self._ask(account)

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        account.seconds = time.monotonic() - begin
        return account

    async def overload(self, rate: float, seconds: float) -> Account:
        """So many in a second, sent when their time has come; those answered after the spell do not count."""
        account, begin = Account(), time.monotonic()
        sent: set[asyncio.Task[None]] = set()
        number = 0
        while (now := time.monotonic() - begin) < seconds:
            while number < rate * now:
                task = asyncio.create_task(self._ask(account))
                sent.add(task)
                task.add_done_callback(sent.discard)
                number += 1
            await asyncio.sleep(0.001)
        account.seconds = time.monotonic() - begin
        counted = Account(account.seconds, [*account.admitted], [*account.refused], account.others)
        await asyncio.gather(*sent)
        return counted

    async def _ask(self, account: Account) -> None:
        begin = time.monotonic()
        try:
            response = await self._stub.LogProb(self._request, timeout=60)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                account.refused.append(time.monotonic() - begin)
            else:
                account.others.append(f"{error.code().name}: {error.details()}")
            return
        account.admitted.append(time.monotonic() - begin)
        if not np.array_equal(decode(response.log_prob, "log_prob"), self._expected):
            account.others.append("a wrong answer")


def measure(engine: str, rounds: int, seconds: float) -> dict[str, Any]:
    """The figures of one engine.

    Args:
        engine: ``inprocess`` or ``torchserve``.
        rounds: how often capacity and overload take turns.
        seconds: of each spell.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        publish(store, 1, width=WIDTH)
        rows = np.random.default_rng(0).standard_normal((ROWS, 3)).astype(np.float32)
        expected = Scorer.load(ModelStore(store).open("wine", 1).scorer_path).log_prob(rows, None)
        served = Served(store, engine, max_queue_rows=QUEUE_ROWS, max_rows_per_batch=BATCH_ROWS, threads=1)
        try:
            spells = asyncio.run(_take_turns(served.grpc, rows, expected, rounds, seconds))
        finally:
            served.close()
    return figures(engine, seconds, spells)


async def _take_turns(
    address: str, rows: np.ndarray, expected: np.ndarray, rounds: int, seconds: float
) -> list[tuple[Account, Account]]:
    async with grpc.aio.insecure_channel(address) as channel:
        crowd = Crowd(DensityServiceStub(channel), rows, expected)
        await crowd.capacity(min(1.0, seconds))
        spells = []
        for _ in range(rounds):
            before = await crowd.capacity(seconds)
            spells.append((before, await crowd.overload(OVERSUBSCRIBED * before.rate, seconds)))
        return spells


def figures(engine: str, seconds: float, spells: Sequence[tuple[Account, Account]]) -> dict[str, Any]:
    """Medians over the rounds of what they showed; seconds."""

    def median(values: list[float]) -> float:
        return statistics.median(values)

    capacity = median([before.rate for before, _ in spells])
    # Whoever is admitted waits for a full queue, the batches under way before it, and its own.
    bound = (QUEUE_ROWS + 3 * BATCH_ROWS) / ROWS / capacity
    return {
        "engine": engine,
        "rounds": len(spells),
        "seconds": seconds,
        "capacity": capacity,
        "offered": median([(len(o.admitted) + len(o.refused)) / o.seconds for _, o in spells]),
        "goodput": median([over.rate for _, over in spells]),
        "goodput / capacity": median([over.rate / before.rate for before, over in spells]),
        "admitted": _quantiles([over.admitted for _, over in spells]),
        "bound": bound,
        "refused": _quantiles([over.refused for _, over in spells]),
        "without load": _quantiles([before.admitted for before, _ in spells]),
        "others": sorted({text for pair in spells for account in pair for text in account.others}),
    }


def _quantiles(spells: list[list[float]]) -> dict[str, float]:
    """Medians over the spells of their median, 99th percentile and maximum."""
    found = [np.quantile(spell, (0.5, 0.99, 1.0)) for spell in spells if spell]
    shown = np.median(found, axis=0) if found else [float("nan")] * 3
    return dict(zip(("p50", "p99", "max"), map(float, shown), strict=True))


def page(records: list[dict[str, Any]]) -> str:
    """The records as a Markdown page."""
    heads = [
        *("engine", "capacity", "sent", "answered", "answered / capacity", "admitted p50", "p99", "bound"),
        *("refused p50", "p99", "other errors"),
    ]
    lines = [
        [
            record["engine"],
            *(f"{record[name]:.0f}/s" for name in ("capacity", "offered", "goodput")),
            f"{record['goodput / capacity']:.2f}",
            *(f"{1000 * value:.1f} ms" for value in (record["admitted"]["p50"], record["admitted"]["p99"])),
            f"{1000 * record['bound']:.1f} ms",
            *(f"{1000 * record['refused'][name]:.1f} ms" for name in ("p50", "p99")),
            str(len(record["others"])),
        ]
        for record in records
    ]
    table = [f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *lines)]
    return "\n".join(["# Overload", "", _SUMMARY, "", *table, ""])


_SUMMARY = f"""\
`make overload`. Requests of {ROWS} rows, a queue of {QUEUE_ROWS} rows, batches of {BATCH_ROWS}, one thread. Sent are
{OVERSUBSCRIBED} times as many requests as the capacity, which {CLIENTS} clients measure in the same run that ask again
as soon as they are answered. The bound is what a full queue and three batches take at the capacity. Every answer is
compared to the bit. Medians of the rounds; clients and service share the machine."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("inprocess", "torchserve"), default="torchserve")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each spell")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of overload.md and overload.json")
    chosen = parser.parse_args(arguments)
    record = measure(chosen.engine, chosen.rounds, chosen.seconds)
    path = chosen.results / "overload.json"
    kept = json.loads(path.read_text()) if path.exists() else []
    records = sorted(
        [each for each in kept if each["engine"] != record["engine"]] + [record], key=lambda each: each["engine"]
    )
    chosen.results.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records, indent=1) + "\n")
    (chosen.results / "overload.md").write_text(page(records))
    print(page([record]))
    return 1 if record["others"] else 0


if __name__ == "__main__":
    sys.exit(main())
