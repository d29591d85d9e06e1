r"""From an unbounded network output u to the logarithm of a scale, log sigma(u).

* ``bounded`` (default): :math:`\log\sigma = u / \sqrt{1 + (u/c)^2}` with :math:`c = \log 1000`. Smooth everywhere,
  close to ``exp`` near 0, and sigma stays within [1/1000, 1000], so one layer amplifies an error by no more than that.
* ``exp``: :math:`\sigma = e^u`, without a limit.
* ``softplus``: :math:`\sigma = \log(1 + e^u)`: linear growth above, exponential decay below.
* ``sigmoid``: :math:`\sigma = 1 / (1 + e^{-u})`, a map that never expands.

The last three are FlowTorch's formulas. At u = 0 ``bounded`` and ``exp`` are 1, so that an untrained layer is the
identity; ``softplus`` is log 2 there and ``sigmoid`` one half, so that an untrained layer shrinks.

Plain functions of tensors, so that TorchScript takes them as they are.
"""

import torch

SCALES = ("bounded", "softplus", "exp", "sigmoid")
"""Names accepted by ``AffineAutoregressive(scale_fn=...)``."""


def log_scale(u: torch.Tensor, name: str) -> torch.Tensor:
    """The logarithm of sigma(u), elementwise.

    Example:
        >>> [round(float(log_scale(torch.tensor(0.0), name).exp()), 4) for name in SCALES]
        [1.0, 0.6931, 1.0, 0.5]
    """
    if name == "bounded":
        # 6.907755278982137 is log 1000; TorchScript reads no module-level floats.
        return u * torch.rsqrt(1 + (u / 6.907755278982137) ** 2)
    if name == "exp":
        return u
    if name == "sigmoid":
        return torch.nn.functional.logsigmoid(u)
    # Far below 0 softplus underflows and its logarithm would be -inf: there log log(1 + e^u) = u - e^u / 2 + O(e^2u).
    high = torch.log(torch.nn.functional.softplus(u.clamp(min=-20.0)))
    return torch.where(u < -20.0, u - 0.5 * torch.exp(u.clamp(max=-20.0)), high)


def from_log_scale(log_sigma: torch.Tensor, name: str) -> torch.Tensor:
    """The u whose :func:`log_scale` is this, elementwise; of ``bounded`` and ``exp``, within their limits.

    Example:
        >>> [round(float(log_scale(from_log_scale(torch.tensor(2.0), name), name)), 4) for name in ("bounded", "exp")]
        [2.0, 2.0]
    """
    return log_sigma * torch.rsqrt(1 - (log_sigma / 6.907755278982137) ** 2) if name == "bounded" else log_sigma


def log_scale_slope(u: torch.Tensor, name: str) -> torch.Tensor:
    """The derivative of :func:`log_scale`, elementwise."""
    if name == "bounded":
        return (1 + (u / 6.907755278982137) ** 2) ** -1.5
    if name == "exp":
        return torch.ones_like(u)
    if name == "sigmoid":
        return torch.sigmoid(-u)
    high = u.clamp(min=-20.0)
    high = torch.sigmoid(high) / torch.nn.functional.softplus(high)
    return torch.where(u < -20.0, 1 - 0.5 * torch.exp(u.clamp(max=-20.0)), high)
