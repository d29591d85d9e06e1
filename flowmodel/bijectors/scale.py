r"""From an unbounded network output u to the logarithm of a scale, log sigma(u), with sigma(0) = 1.

* ``bounded`` (default): :math:`\log\sigma = u / \sqrt{1 + (u/c)^2}` with :math:`c = \log 1000`. Smooth everywhere,
  close to ``exp`` near 0, and sigma stays within [1/1000, 1000], so one layer amplifies an error by no more than that.
* ``exp``: :math:`\log\sigma = u`, without a limit.
* ``softplus``: :math:`\sigma = \log(1 + e^{u + \log(e - 1)})`: linear growth above, exponential decay below.

Plain functions of tensors, so that TorchScript takes them as they are.
"""

import torch

SCALES = ("bounded", "exp", "softplus")
"""Names accepted by ``AffineAutoregressive(scale_fn=...)``."""


def log_scale(u: torch.Tensor, name: str) -> torch.Tensor:
    """The logarithm of sigma(u), elementwise."""
    if name == "bounded":
        # 6.907755278982137 is log 1000; TorchScript reads no module-level floats.
        return u * torch.rsqrt(1 + (u / 6.907755278982137) ** 2)
    if name == "exp":
        return u
    # 0.5413248546129181 is log(e - 1), where softplus is 1.
    return torch.log(torch.nn.functional.softplus(u + 0.5413248546129181))


def log_scale_slope(u: torch.Tensor, name: str) -> torch.Tensor:
    """The derivative of :func:`log_scale`, elementwise."""
    if name == "bounded":
        return (1 + (u / 6.907755278982137) ** 2) ** -1.5
    if name == "exp":
        return torch.ones_like(u)
    shifted = u + 0.5413248546129181
    return torch.sigmoid(shifted) / torch.nn.functional.softplus(shifted)
