"""What a person sees while a flow is trained: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from flowmodel.training import Epoch

_SECONDS_BETWEEN_LINES = 5.0
_EPOCHS_TO_JUDGE_BY = 15


class TimeLeft:
    """How long training may go on: early stopping may end it sooner, so it is an upper bound.

    Args:
        max_epochs: The most there can be.
    """

    def __init__(self, max_epochs: int) -> None:
        self._max_epochs = max_epochs
        self._started = time.monotonic()
        self._seconds: deque[float] = deque(maxlen=_EPOCHS_TO_JUDGE_BY)

    def __call__(self, epoch: Epoch) -> str:
        """To be called once after each epoch; epochs of a run that was resumed do not count."""
        now = time.monotonic()
        self._seconds.append(now - self._started)
        self._started = now
        seconds = round(statistics.median(self._seconds) * (self._max_epochs - epoch.number))
        return f"at most {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"


@contextmanager
def training_progress(max_epochs: int, *, shown: bool = True) -> Iterator[Callable[[Epoch], None] | None]:
    """A callback for ``fit``, writing to standard error; none where nothing is to be shown."""
    if not shown:
        yield None
        return
    left = TimeLeft(max_epochs)
    console = Console(stderr=True)
    if console.is_terminal:
        with _bar(console) as progress:
            task = progress.add_task("training", total=max_epochs, losses="", left="")

            def advance(epoch: Epoch) -> None:
                progress.update(task, completed=epoch.number, losses=_losses(epoch), left=left(epoch))

            yield advance
        return
    last_line = time.monotonic()

    def report(epoch: Epoch) -> None:
        nonlocal last_line
        now, at_most = time.monotonic(), left(epoch)
        if epoch.number == 1 or now - last_line >= _SECONDS_BETWEEN_LINES:
            console.print(f"epoch {epoch.number} of at most {max_epochs}: {_losses(epoch)}, {at_most}", highlight=False)
            last_line = now

    yield report


def _bar(console: Console) -> Progress:
    # Narrow enough for 80 characters.
    return Progress(
        TextColumn("epoch {task.completed:.0f}/{task.total:.0f}"),
        BarColumn(bar_width=4),
        TextColumn("{task.fields[losses]}"),
        TextColumn("{task.fields[left]}"),
        console=console,
        transient=True,
    )


def _losses(epoch: Epoch) -> str:
    return f"NLL train {epoch.train_nll:.3f} validation {epoch.validation_nll:.3f}"
