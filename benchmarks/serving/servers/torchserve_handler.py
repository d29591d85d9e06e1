"""What a user of plain TorchServe writes: one call of the TorchScript for the batch that TorchServe collected."""

from __future__ import annotations

import os
from typing import Any

from scorer import PlainScorer


class Handler:
    """Bytes of float32 in the input ``data`` of each request; bytes of float32 out."""

    def initialize(self, context: Any) -> None:
        self._scorer = PlainScorer(os.path.join(context.system_properties["model_dir"], "scorer.pt"))

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        return self._scorer.score_all([item["data"] for item in data])
