"""What a person sees while a flow is trained: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from flowmodel.training import Epoch

_SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def training_progress(max_epochs: int) -> Iterator[Callable[[Epoch], None]]:
    """A callback for ``fit``, writing to standard error."""
    console = Console(stderr=True)
    if console.is_terminal:
        with _bar(console) as progress:
            task = progress.add_task("training", total=max_epochs, losses="")

            def advance(epoch: Epoch) -> None:
                progress.update(task, completed=epoch.number, losses=_losses(epoch))

            yield advance
        return
    last_line = time.monotonic()

    def report(epoch: Epoch) -> None:
        nonlocal last_line
        now = time.monotonic()
        if epoch.number == 1 or now - last_line >= _SECONDS_BETWEEN_LINES:
            console.print(f"epoch {epoch.number} of at most {max_epochs}: {_losses(epoch)}", highlight=False)
            last_line = now

    yield report


def _bar(console: Console) -> Progress:
    # Narrow enough for 80 characters. Early stopping may end it sooner than the time shown.
    return Progress(
        TextColumn("epoch {task.completed:.0f}/{task.total:.0f}"),
        BarColumn(bar_width=10),
        TextColumn("{task.fields[losses]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=console,
        transient=True,
    )


def _losses(epoch: Epoch) -> str:
    return f"NLL train {epoch.train_nll:.3f} validation {epoch.validation_nll:.3f}"
