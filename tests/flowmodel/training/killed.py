"""A training in a process of its own: says which epoch it ended, and waits there to be killed if told to."""

from __future__ import annotations

import sys

import numpy as np
import torch
from safetensors.torch import save_file

from flowmodel.data.parquet_rows import ParquetRows
from flowmodel.training import fit
from flowmodel.training.recipe import default_flow


def main(kind: str, folder: str, name: str, last_epoch: str) -> None:
    torch.set_num_threads(1)
    flow = default_flow(2, 1, layers=2, hidden=(16,), seed=1)
    if kind == "chunked":
        data = ParquetRows(f"{folder}/rows.parquet", ["a", "b"], ["c"], chunk_rows=128)
        arguments = {"data": data}
    else:
        table = np.load(f"{folder}/rows.npy")
        arguments = {"data": table[:, :2], "context": table[:, 2:]}

    def progress(epoch):
        print(epoch.number, flush=True)
        if epoch.number == int(last_epoch):
            sys.stdin.read()

    result = fit(
        flow,
        **arguments,
        seed=4,
        max_epochs=14,
        patience=3,
        learning_rate=0.02,
        progress=progress,
        checkpoint=f"{folder}/{name}",
        resume=True,
    )
    save_file(flow.state_dict(), f"{folder}/{name}.weights")
    print([epoch.validation_nll for epoch in result.history], result.best_epoch)


if __name__ == "__main__":
    main(*sys.argv[1:])
