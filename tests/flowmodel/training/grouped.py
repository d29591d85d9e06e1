"""One of several processes that fit a flow to Normal rows together: writes what it ends with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as group
from safetensors.torch import save_file

from flowmodel.training import fit
from flowmodel.training.recipe import default_flow


def main(folder: str) -> None:
    torch.set_num_threads(1)
    group.init_process_group("gloo")
    rank = group.get_rank()
    # Other first weights in each process: those of the first must be taken by all.
    flow = default_flow(3, layers=3, hidden=(8,), seed=rank)
    rows, held_out = np.load(f"{folder}/rows.npy"), np.load(f"{folder}/held_out.npy")
    result = fit(flow, rows, validation=held_out, max_epochs=3)
    save_file(flow.state_dict(), f"{folder}/{rank}.weights")
    Path(f"{folder}/{rank}.json").write_text(json.dumps(result.summary()))
    group.barrier()
    group.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
