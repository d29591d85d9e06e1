"""Versions that come and go under load, and which of them may answer a request that was under way meanwhile."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from publishing import publish
from served import Served

from flowmodel.artefact.rollout import Rollout
from flowmodel.artefact.store import ModelStore
from flowmodel.runtime.noise import Draw
from flowmodel.runtime.scoring import Scorer
from service.client import DensityClient

_SCORERS_KEPT = 8
_WAIT_SECONDS = 180

ASKS_WITHOUT_END = """
import sys
from service.client import DensityClient
import numpy as np
with DensityClient(sys.argv[1]) as client:
    while True:
        client.log_prob("wine", np.zeros((20000, 3), np.float32))
        print("asked", flush=True)
"""


class Truth:
    """What each version answers, and which version may have answered when.

    Args:
        store: where the versions are.
        version: the default one to begin with.
    """

    def __init__(self, store: Path, version: int) -> None:
        self._store = ModelStore(store)
        self._scorers: OrderedDict[str, Scorer] = OrderedDict()
        self._lock = threading.Lock()
        self._log = [frozenset({str(version)})]

    def may_answer(self, *versions: int) -> None:
        """From now on, one of these answers requests that name none."""
        self._log.append(frozenset(map(str, versions)))

    def mark(self) -> int:
        """For :meth:`allowed`, before a request is sent."""
        return len(self._log) - 1

    def allowed(self, since: int) -> set[str]:
        """The versions that may have answered a request that was sent at the mark and is answered now."""
        return set().union(*self._log[since:])

    def check_version(self, version: str, since: int) -> None:
        assert version in self.allowed(since), f"version {version} answered where {self.allowed(since)} may"

    def check_scores(self, version: str, rows: np.ndarray, log_prob: np.ndarray) -> None:
        """To the bit; rows that hold NaN are answered NaN."""
        good = np.isfinite(rows).all(1)
        expected = np.full(len(rows), np.nan, np.float32)
        if good.any():
            expected[good] = self._scorer(version).log_prob(rows[good], None)
        np.testing.assert_array_equal(log_prob, expected, err_msg=f"log-densities of version {version}")

    def check_samples(self, version: str, draw: Draw, samples: np.ndarray, log_prob: np.ndarray) -> None:
        expected = self._scorer(version).sample([draw])
        np.testing.assert_array_equal(samples, expected[0], err_msg=f"samples of version {version}")
        np.testing.assert_array_equal(log_prob, expected[1], err_msg=f"log-densities of samples of version {version}")

    def _scorer(self, version: str) -> Scorer:
        with self._lock:
            if version not in self._scorers:
                self._scorers[version] = Scorer.load(self._store.open("wine", int(version)).scorer_path)
                while len(self._scorers) > _SCORERS_KEPT:
                    self._scorers.popitem(last=False)
            self._scorers.move_to_end(version)
            return self._scorers[version]


class Rotation:
    """Publishes, chooses, rolls back and retires versions, puts broken ones beside them, and kills a client each time.

    Args:
        served: the service.
        store: its store, where ``wine`` has one version.
        truth: is told which version may answer.
        pause: seconds between two steps.
        stopping: ends it after the step that is under way.

    Attributes:
        done: how often each step was taken.
    """

    def __init__(self, served: Served, store: Path, truth: Truth, pause: float, stopping: threading.Event) -> None:
        self._served, self._path, self._truth = served, store, truth
        self._store = ModelStore(store)
        self._pause, self._stopping = pause, stopping
        self.done: Counter[str] = Counter()
        self._default, self._previous, self._newest = 1, 1, 1

    def run(self) -> None:
        """Step after step, each at least once, until it is to stop."""
        steps = (
            self.publish,
            self.choose,
            self.kill_client,
            self.roll_back,
            self.canary,
            self.broken,
            self.shadow,
            self.retire,
        )
        with DensityClient(self._served.grpc) as self._client:
            while True:
                for step in steps:
                    name = step.__name__.replace("_", " ")
                    if self._stopping.wait(self._pause) and name in self.done:
                        return
                    step()
                    self.done[name] += 1

    def publish(self) -> None:
        """The next version becomes the default by being there."""
        self._rollout().default(None)
        self._newest += 1
        self._truth.may_answer(self._default, self._newest)
        assert publish(self._path, self._newest) == self._newest
        self._settle(self._newest)

    def choose(self) -> None:
        self._change(self._previous, lambda rollout: rollout.default(self._previous))

    def roll_back(self) -> None:
        self._change(self._previous, Rollout.rollback)

    def canary(self) -> None:
        """The version before takes a third of the requests, and is then made the default, which ends it."""
        canary = self._previous
        self._truth.may_answer(self._default, canary)
        self._rollout().canary(canary, 0.33)
        rows = np.zeros((1, 3), np.float32)
        self._wait(lambda: self._client.score("wine", rows).version == str(canary), f"canary {canary} answers")
        self._rollout().default(canary)
        self._settle(canary)
        self._change(self._previous, Rollout.rollback)

    def broken(self) -> None:
        """A newer version than all, which never answers."""
        whole, self._newest = self._path / "wine" / str(self._default), self._newest + 1
        aside = self._path / "wine" / f".{self._newest}"
        shutil.copytree(whole, aside)
        content = (aside / "scorer.pt").read_bytes()
        (aside / "scorer.pt").write_bytes(content[: len(content) // 2])
        aside.rename(self._path / "wine" / str(self._newest))
        named = f"wine/{self._newest}"
        self._wait(lambda: any(named in line for line in self._served.errors), f"the log tells of {named}")
        self._rollout().retire(self._newest)

    def shadow(self) -> None:
        self._rollout().shadow(self._previous)
        self._stopping.wait(self._pause)
        self._rollout().shadow(None)

    def retire(self) -> None:
        """All but the last two."""
        retired = set(self._store.serving("wine").retired)
        for version in self._store.versions("wine"):
            if version not in retired | {self._default, self._previous}:
                self._rollout().retire(version)

    def kill_client(self) -> None:
        program = [sys.executable, "-c", ASKS_WITHOUT_END, self._served.grpc]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout.readline() == "asked\n"
            client.kill()

    def _rollout(self) -> Rollout:
        return Rollout(self._store, "wine")

    def _change(self, version: int, change: Callable[[Rollout], object]) -> None:
        self._truth.may_answer(self._default, version)
        change(self._rollout())
        self._settle(version)

    def _settle(self, version: int) -> None:
        """Wait until the service says that the version is its default, which it is from then on, alone."""
        self._wait(lambda: self._client.model("wine").default_version == str(version), f"version {version} is default")
        self._truth.may_answer(version)
        if version != self._default:
            self._default, self._previous = version, self._default

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + _WAIT_SECONDS
        while not condition():
            assert time.monotonic() < end, f"waited in vain: {what}"
            time.sleep(0.05)
