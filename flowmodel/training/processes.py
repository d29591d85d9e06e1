"""The processes that train one flow together: one alone, or a ``torch.distributed`` group such as torchrun starts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as group
from torch import Tensor

from flowmodel.errors import TrainingError


class Processes:
    """This process and those beside it.

    Every rank draws the same batches and takes its share of each; gradients are added up, so that all take the same
    step. Without an initialised group there is one process, and nothing here does anything.

    Args:
        device: Where the flow is; what is sent lies there.

    Example:
        >>> processes = Processes()
        >>> processes.rank, processes.count
        (0, 1)
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        grouped = group.is_available() and group.is_initialized()
        self.rank: int = group.get_rank() if grouped else 0
        self.count: int = group.get_world_size() if grouped else 1
        self._device = torch.device(device)

    def share(self, count: int) -> slice:
        """Which of so many rows are this rank's; all ranks' together are all."""
        return slice(count * self.rank // self.count, count * (self.rank + 1) // self.count)

    def add_(self, values: Tensor) -> Tensor:
        """Replace values by their sum over all ranks: the same bits everywhere."""
        if self.count > 1:
            self._together(lambda: group.all_reduce(values))
        return values

    def add_gradients_(self, parameters: Sequence[Tensor], loss: Tensor) -> Tensor:
        """Replace each gradient by its sum over all ranks, in one exchange; returns the sum of the losses."""
        if self.count == 1:
            return loss
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([loss.detach().reshape(1).to(gradients[0].dtype), *(g.reshape(-1) for g in gradients)])
        self.add_(flat)
        start = 1
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()
        return flat[0]

    def copy_first_(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of rank 0."""
        if self.count > 1:
            for tensor in tensors:
                sent = tensor.detach().contiguous()
                self._together(lambda sent=sent: group.broadcast(sent, 0))  # type: ignore[misc]
                tensor.detach().copy_(sent)

    def first_bytes(self, own: bytes | None) -> bytes | None:
        """The bytes that rank 0 has, or ``None`` where it has none."""
        if self.count == 1:
            return own
        size = torch.tensor([-1 if own is None else len(own)], device=self._device)
        self.copy_first_([size])
        if size.item() < 0:
            return None
        sent = torch.empty(int(size.item()), dtype=torch.uint8, device=self._device)
        if self.rank == 0:
            sent.copy_(torch.frombuffer(bytearray(own or b""), dtype=torch.uint8))
        self.copy_first_([sent])
        return sent.cpu().numpy().tobytes()

    def check_same(self, what: str, text: str) -> None:
        """Raise ``TrainingError`` unless all ranks give the same text."""
        if self.count == 1:
            return
        digest = hashlib.sha256(text.encode()).digest()
        own = torch.tensor(list(digest), dtype=torch.int32, device=self._device)
        all_digests = [torch.empty_like(own) for _ in range(self.count)]
        self._together(lambda: group.all_gather(all_digests, own))
        other = next((rank for rank, given in enumerate(all_digests) if not torch.equal(given, all_digests[0])), None)
        if other is not None:
            raise TrainingError(
                f"process {other} of {self.count} was given other {what} than process 0; start all with the same "
                "command on the same file"
            )

    def _together(self, exchange: Callable[[], object]) -> None:
        try:
            exchange()
        except RuntimeError as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise TrainingError(
                f"process {self.rank} of {self.count} cannot reach the others ({reason}); one of them has ended, and "
                "its own message says why"
            ) from error
