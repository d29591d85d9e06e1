"""The TorchServe handler: many requests in, few calls of the scorer, one answer for each.

TorchServe finds it by the name in the archive's manifest and takes the one class that this module defines. Nothing of
TorchServe is imported, so the class also runs, and is tested, without it.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .bodies import MAX_ANSWER_BYTES, Body, Fault, Result, Task, finite_rows, read_body
from .scoring import Scorer, ScoringError, explain_failure, prepare_torch

logger = logging.getLogger(__name__)

THREADS_VARIABLE = "FLOWMODEL_THREADS"

_HEAD_BYTES = 1024
"""More than an answer has besides its numbers."""


class DensityHandler:
    """Answers for one model on one device; TorchServe runs one in each worker process."""

    def initialize(self, context: Any) -> None:
        """Load the scorer that lies beside this package.

        The device is the GPU that TorchServe gave this worker, if torch can use it, else the CPU. The number of threads
        comes from ``FLOWMODEL_THREADS``, from ``handler: {threads: N}`` in the model's configuration, or is torch's.
        """
        # Below this, TorchServe's worker sends two lines of text through a pipe for each request.
        logging.getLogger().setLevel(logging.WARNING)
        folder = Path(context.system_properties["model_dir"])
        device = device_for(context.system_properties.get("gpu_id"))
        threads = threads_for(getattr(context, "model_yaml_config", None) or {})
        # After TorchServe's own modules, some of which lower the precision when they are imported.
        prepare_torch()
        self._model = str(context.manifest["model"]["modelName"])
        self._version = str(context.manifest["model"]["modelVersion"])
        pool = ThreadPoolExecutor(threads, "scorer") if threads > 1 else None
        self._scorer = Scorer.load(folder / "scorer.pt", device, pool, threads)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """One answer for each request; a bad one is answered with its error and disturbs no other."""
        answers: dict[int, bytes] = {}
        bodies: dict[int, Body] = {}
        for index, item in enumerate(data):
            try:
                bodies[index] = self._read(index, item, context)
            except ScoringError as error:
                answers[index] = _reject(index, item, error, context)
        groups: dict[Any, list[int]] = defaultdict(list)
        for index, body in bodies.items():
            groups[_group(body.task)].append(index)
        for indices in groups.values():
            for index, outcome in zip(indices, self._compute([bodies[i].task for i in indices]), strict=True):
                answers[index] = self._answer(index, data[index], bodies[index], outcome, context)
        return [answers[index] for index in range(len(data))]

    def _read(self, index: int, item: dict[str, Any], context: Any) -> Body:
        described = context.get_request_header(index, "body") or context.get_request_header(index, "data") or {}
        content_type = str(described.get("content-type") or "").split(";")[0].strip().lower()
        body = read_body(item, content_type, self._scorer, self._model, self._version)
        self._scorer.check(body.task.rows, body.task.context, body.task.size)
        row_bytes = self._scorer.dtype.itemsize * (self._scorer.event_size + 1)
        largest = (MAX_ANSWER_BYTES - _HEAD_BYTES) // row_bytes
        if body.task.rows is None and body.task.size > largest:
            message = f"{body.task.size} samples asked for; expected at most {largest} at once"
            raise ScoringError("COUNT_TOO_LARGE", "count", message)
        return body

    def _compute(self, tasks: list[Task]) -> list[Result | Exception]:
        """All tasks in one call; should that fail, each alone, so that only the one at fault fails."""
        try:
            return list(self._call(tasks))
        except Exception as error:
            if len(tasks) == 1:
                return [error]
        logger.warning("A batch of %d requests failed; each is tried alone.", len(tasks))
        return [outcome for task in tasks for outcome in self._compute([task])]

    def _call(self, tasks: list[Task]) -> list[Result]:
        contexts = [task.context for task in tasks if task.context is not None]
        context = np.concatenate(contexts) if contexts else None
        ends = np.cumsum([task.size for task in tasks])[:-1]
        if tasks[0].rows is None:
            samples, log_prob = self._scorer.sample([draw for task in tasks for draw in task.draws], context)
            pieces = zip(np.split(log_prob, ends), np.split(samples, ends), strict=True)
            return [Result(*piece) for piece in pieces]
        rows = np.concatenate([task.rows for task in tasks if task.rows is not None])
        finite = np.concatenate([finite_rows(task) for task in tasks])
        log_prob = np.full(len(rows), np.nan, self._scorer.dtype)
        if finite.any():
            log_prob[finite] = self._scorer.log_prob(rows[finite], None if context is None else context[finite])
        return [Result(piece, None) for piece in np.split(log_prob, ends)]

    def _answer(self, index: int, item: dict[str, Any], body: Body, outcome: Result | Exception, context: Any) -> bytes:
        if isinstance(outcome, Exception):
            return _reject(index, item, outcome, context)
        answer = body.answer(outcome)
        if len(answer) > MAX_ANSWER_BYTES:
            message = f"the answer has {len(answer)} bytes; ask for fewer rows, {MAX_ANSWER_BYTES} bytes can be sent"
            return _reject(index, item, ScoringError("ANSWER_TOO_LARGE", "rows", message), context)
        context.set_response_content_type(index, body.content_type)
        return answer


def device_for(gpu_id: Any) -> str:
    """``cuda:N`` for the GPU that TorchServe assigned, when torch can use it; else ``cpu``."""
    if gpu_id is None or int(gpu_id) < 0 or not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(gpu_id)}"


def threads_for(model_config: dict[str, Any]) -> int:
    """How many threads to spread rows over; see :meth:`DensityHandler.initialize`."""
    given = os.environ.get(THREADS_VARIABLE) or (model_config.get("handler") or {}).get("threads")
    try:
        threads = int(given) if given is not None else torch.get_num_threads()
    except (TypeError, ValueError):
        threads = 0
    if threads < 1:
        raise ValueError(f"{THREADS_VARIABLE} or handler.threads is {given!r}; expected a whole number of at least 1")
    return threads


def _group(task: Task) -> Any:
    """Tasks that may share a call: the same operation on the same dtypes."""
    return tuple(None if array is None else array.dtype.str for array in (task.rows, task.context))


def _reject(index: int, item: dict[str, Any], error: Exception, context: Any) -> bytes:
    """The answer that says what is wrong, in the request's own kind, and the HTTP status that goes with it."""
    if isinstance(error, ScoringError):
        fault = Fault("INVALID_ARGUMENT", error.reason, error.field, str(error))
        context.set_response_status(400, "Bad Request", index)
    else:
        logger.error("The model failed on one request.", exc_info=error)
        fault = Fault("INTERNAL", "MODEL_FAILED", "", explain_failure(error))
        context.set_response_status(500, "Internal Server Error", index)
    answer, content_type = fault.answer(item)
    context.set_response_content_type(index, content_type)
    return answer
