"""Clients that ask without a pause, and the account of what each request was answered."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np

from flowmodel.artefact.store import ModelStore
from flowmodel.runtime.scoring import Scorer
from service.client import DensityClient
from service.client.errors import DensityError, from_rpc_error
from service.generated.density.v1 import density_service_pb2 as pb
from service.generated.density.v1.density_service_pb2_grpc import DensityServiceStub
from service.tensors import decode, encode

VARIANTS = 16
"""Different requests, so that an answer given to the wrong one is seen."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one request was answered.

    Attributes:
        variant: which rows were asked about.
        code: ``OK``, or the gRPC status of the error.
        reason: of an error.
        hint: whether an error said when to come back.
        version: that answered.
        log_prob: ``[N]``.
        seconds: from the request to its answer.
    """

    variant: int
    code: str
    reason: str = ""
    hint: bool = False
    version: str = ""
    log_prob: np.ndarray | None = None
    seconds: float = 0.0


class Load:
    """Steady load on the model ``wine`` until :meth:`stop`.

    Args:
        address: of the service.
        clients: how many ask at once.
        rows: of each request.
        retries: whether the clients repeat what was UNAVAILABLE, as the Python client does; bare stubs otherwise, which
            see each error.
        timeout: of each request.
        poisoned: the row of each request that holds NaN, if any.
    """

    def __init__(
        self,
        address: str,
        *,
        clients: int = 4,
        rows: int = 5,
        retries: bool = False,
        timeout: float = 60.0,
        poisoned: int | None = None,
    ) -> None:
        self._address, self._retries, self._timeout = address, retries, timeout
        self.rows = [np.random.default_rng(v).standard_normal((rows, 3)).astype(np.float32) for v in range(VARIANTS)]
        if poisoned is not None:
            for variant in self.rows:
                variant[poisoned] = np.nan
        self.answers: list[list[Answer]] = [[] for _ in range(clients)]
        self.asked = [0] * clients
        self._news, self._stopping = threading.Condition(), threading.Event()
        self._pool = ThreadPoolExecutor(clients)
        self._clients = [self._pool.submit(self._ask, number) for number in range(clients)]

    def wait_for(self, count: int, code: str | None = None) -> None:
        """Return when each client has so many more answers, or so many more of this kind."""

        def seen() -> list[int]:
            return [sum(code is None or answer.code == code for answer in own) for own in self.answers]

        with self._news:
            before = seen()
            done = self._news.wait_for(
                lambda: (
                    any(client.done() for client in self._clients)
                    or all(now - then >= count for now, then in zip(seen(), before, strict=True))
                ),
                timeout=120,
            )
        assert not any(client.done() for client in self._clients), [c.exception() for c in self._clients if c.done()]
        assert done, f"no {count} answers {code or ''} each; {self.codes()}"

    def stop(self) -> list[Answer]:
        """All answers, each request having had one."""
        self._stopping.set()
        self._pool.shutdown()
        for client in self._clients:
            client.result()
        assert self.asked == [len(own) for own in self.answers], "each request is answered, once"
        return [answer for own in self.answers for answer in own]

    def codes(self) -> Counter[str]:
        """How often each code was answered."""
        return Counter(answer.code for own in self.answers for answer in own)

    def _ask(self, number: int) -> None:
        # A channel of its own for each client: channels with the same options share a connection otherwise.
        options = [("grpc.use_local_subchannel_pool", 1)]
        with DensityClient(self._address) as client, grpc.insecure_channel(self._address, options) as channel:
            ask = self._through(client) if self._retries else self._bare(DensityServiceStub(channel))
            while not self._stopping.is_set():
                variant = (self.asked[number] + number) % VARIANTS
                self.asked[number] += 1
                begin = time.monotonic()
                answer = dataclasses.replace(ask(variant), seconds=time.monotonic() - begin)
                with self._news:
                    self.answers[number].append(answer)
                    self._news.notify_all()

    def _through(self, client: DensityClient):
        def ask(variant: int) -> Answer:
            try:
                scores = client.score("wine", self.rows[variant], timeout=self._timeout)
            except DensityError as error:
                return Answer(variant, error.code, error.reason, error.retry_after_seconds is not None)
            return Answer(variant, "OK", version=scores.version, log_prob=scores.log_prob)

        return ask

    def _bare(self, stub: DensityServiceStub):
        requests = [pb.LogProbRequest(model="wine", rows=encode(rows)) for rows in self.rows]

        def ask(variant: int) -> Answer:
            try:
                response = stub.LogProb(requests[variant], timeout=self._timeout)
            except grpc.RpcError as raised:
                error = from_rpc_error(raised)
                return Answer(variant, error.code, error.reason, error.retry_after_seconds is not None)
            return Answer(
                variant, "OK", version=response.version, log_prob=decode(response.log_prob, "log_prob").copy()
            )

        return ask


def check_right(load: Load, store: Path, answers: list[Answer]) -> set[str]:
    """Hold every answer against the scorer of the version it names, to the bit; the versions seen."""
    versions = {answer.version for answer in answers if answer.code == "OK"}
    expected = {}
    for version in versions:
        scorer = Scorer.load(ModelStore(store).open("wine", int(version)).scorer_path)
        for variant, rows in enumerate(load.rows):
            good = np.isfinite(rows).all(1)
            log_prob = np.full(len(rows), np.nan, np.float32)
            log_prob[good] = scorer.log_prob(rows[good], None)
            expected[version, variant] = log_prob
    for answer in answers:
        if answer.code == "OK":
            np.testing.assert_array_equal(answer.log_prob, expected[answer.version, answer.variant])
    return versions
