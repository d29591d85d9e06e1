"""Where there is no GPU, Triton's interpreter runs the kernel; it has to be asked for before the kernel is imported."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
