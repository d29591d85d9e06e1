"""The metrics of several gateway processes, added up by whichever of them is asked.

Each process keeps its counts in files that it maps into memory (the multiprocess mode of ``prometheus_client``). They
are named by the number of the gateway and not by that of the process, so that a gateway which is started again goes on
counting where the one before it ended.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, values
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Where ``prometheus_client`` looks for the folder; must be set before it is imported."""

_LOADED = "density_model_info"
_ENDED_WHEN_ZERO = (_LOADED, "density_model_default_version")
_OF_A_VERSION = ("density_queue_rows", "density_log_prob", "density_shadow_difference_nats")
"""What disappears with its version; the library keeps it in the files."""
_WITHOUT_COUNT = ("density_log_prob_count", "density_shadow_difference_nats_count")
"""A histogram without a sum has no count either."""


class SharedMetrics:
    """The folder in which the gateways of one service keep their counts.

    Args:
        folder: must be the value of ``FOLDER_VARIABLE`` in each gateway.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def join(self, number: int) -> None:
        """Keep the counts of this process in the files of a gateway; before the first metric is made."""
        if os.environ.get(FOLDER_VARIABLE) != str(self._folder):
            raise ValueError(f"{FOLDER_VARIABLE} is {os.environ.get(FOLDER_VARIABLE)}; {self._folder} expected")
        values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]
        _pid_file(self._folder, number).write_text(str(os.getpid()))

    def leave(self, number: int) -> None:
        """A gateway is gone: what it had under way ends, what it counted stays."""
        mark_process_dead(number, str(self._folder))  # type: ignore[no-untyped-call]
        _pid_file(self._folder, number).unlink(missing_ok=True)

    def registry(self) -> CollectorRegistry:
        """What is exposed: the sums, and each process's own figures."""
        registry = CollectorRegistry()
        registry.register(_AddedUp(self._folder))
        registry.register(_EachProcess(self._folder))
        PlatformCollector(registry=registry)
        return registry


class _AddedUp(Collector):
    """The metrics of all gateways, without what belongs to versions that none of them has loaded any more."""

    def __init__(self, folder: Path) -> None:
        self._files = MultiProcessCollector(None, str(folder))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterator[Metric]:
        families = {family.name: family for family in self._files.collect()}  # type: ignore[no-untyped-call]
        for name in _ENDED_WHEN_ZERO:
            if name in families:
                families[name].samples = [sample for sample in families[name].samples if sample.value]
        loaded = {
            (sample.labels["model"], sample.labels["version"])
            for sample in (families[_LOADED].samples if _LOADED in families else ())
        }
        for name in _OF_A_VERSION:
            if name in families:
                families[name].samples = [
                    sample
                    for sample in families[name].samples
                    if (sample.labels["model"], sample.labels["version"]) in loaded
                    and sample.name not in _WITHOUT_COUNT
                ]
        yield from families.values()


class _EachProcess(Collector):
    """``process_*`` of each gateway and their parent, labelled: a sum would fall when one is replaced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parent = os.getppid()

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for name, pid in self._processes():
            for metric in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
                family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                family.samples += [
                    sample._replace(labels={**sample.labels, "process": name}) for sample in metric.samples
                ]
        yield from families.values()

    def _processes(self) -> Iterator[tuple[str, int]]:
        yield "parent", self._parent
        for file in sorted(self._folder.glob("gateway-*.pid")):
            with contextlib.suppress(OSError, ValueError):
                yield file.stem, int(file.read_text())


def _pid_file(folder: Path, number: int) -> Path:
    return folder / f"gateway-{number}.pid"
