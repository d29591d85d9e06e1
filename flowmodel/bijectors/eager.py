"""Whether torch is doing nothing but what it is told."""

import torch
from torch.autograd import forward_ad


def runs_eagerly() -> bool:
    """Whether tensors are what they seem: nothing compiles, traces, batches or differentiates forward.

    Only then may numbers be computed behind torch's back, with a backward pass of their own.

    Example:
        >>> runs_eagerly(), torch.func.vmap(lambda x: x * runs_eagerly())(torch.ones(2)).tolist()
        (True, [0.0, 0.0])
    """
    return not (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or forward_ad._current_level >= 0
    )
