r"""Base distributions made ready for TorchScript: exact log-density, and draws from noise that is given from outside.

The noise is standard normal for every base, so one stream of numbers serves all of them. Where another law is wanted,
:math:`\Phi(z)` makes it uniform first. All of that is done in float64, and each tail from its own side, so that no
digit is lost where the probability is small.
"""

import abc
import math

import torch
from torch import Tensor


class FoldedBase(torch.nn.Module, abc.ABC):
    """A base over one flat event of D dimensions.

    Attributes:
        noise_size: how many standard normal numbers one draw takes.
    """

    noise_size: int

    @abc.abstractmethod
    def from_noise(self, noise: Tensor) -> Tensor:
        """Standard normal noise ``[N, noise_size]`` to draws ``[N, D]``."""

    @abc.abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of ``x[N, D]``: ``[N]``."""


def normal_cdf(z: Tensor) -> Tensor:
    r""":math:`\Phi(z)`, every digit of it in the lower tail, where ``torch.special.ndtr`` takes 1 from almost 1."""
    # 0.7071067811865476 is sqrt(1/2); TorchScript reads no module-level floats.
    return 0.5 * torch.erfc(-0.7071067811865476 * z)


class FoldedNormal(FoldedBase):
    r"""A diagonal normal: :math:`\log p(x) = -\sum_i [(x_i - m_i)^2 / 2 s_i^2 + \log s_i] - \tfrac D2 \log 2\pi`."""

    loc: Tensor
    scale: Tensor
    log_normaliser: Tensor

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.noise_size = loc.numel()
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)
        constant = scale.to(torch.float64).log().sum() + 0.5 * loc.numel() * math.log(2 * math.pi)
        self.register_buffer("log_normaliser", constant.to(scale.dtype))

    def from_noise(self, noise: Tensor) -> Tensor:
        """Standard normal noise ``[N, D]`` to draws ``[N, D]``."""
        return self.loc + self.scale * noise.to(self.scale.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of ``x[N, D]``: ``[N]``."""
        z = (x - self.loc) / self.scale
        return -0.5 * (z * z).sum(1) - self.log_normaliser


class FoldedLaplace(FoldedBase):
    r"""A diagonal Laplace distribution: :math:`\log p(x) = -\sum_i [|x_i - m_i| / s_i + \log 2 s_i]`."""

    loc: Tensor
    scale: Tensor
    log_normaliser: Tensor

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.noise_size = loc.numel()
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)
        self.register_buffer("log_normaliser", (2 * scale.to(torch.float64)).log().sum().to(scale.dtype))

    def from_noise(self, noise: Tensor) -> Tensor:
        r"""Noise ``[N, D]`` to draws by the inverse CDF, :math:`-\mathrm{sgn}(z) \log 2\Phi(-|z|)`."""
        noise = noise.to(torch.float64)
        size = noise.abs()
        # 0.7071067811865476 is sqrt(1/2), 0.6931471805599453 is log 2. Near 0 the logarithm is that of almost 1.
        near = torch.log1p(-torch.erf(size.clamp(max=1.0) * 0.7071067811865476))
        far = torch.special.log_ndtr(-size) + 0.6931471805599453
        standard = -torch.sign(noise) * torch.where(size < 1, near, far)
        return self.loc + self.scale * standard.to(self.scale.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of ``x[N, D]``: ``[N]``."""
        return -((x - self.loc) / self.scale).abs().sum(1) - self.log_normaliser


class FoldedStudentT(FoldedBase):
    r"""Independent Student t distributions, each with degrees of freedom :math:`\nu_i` of its own.

    .. math:: \log p(x) = \sum_i \Big[\log\Gamma\tfrac{\nu_i + 1}2 - \log\Gamma\tfrac{\nu_i}2
              - \tfrac12 \log \pi\nu_i s_i^2 - \tfrac{\nu_i + 1}2 \log(1 + (x_i - m_i)^2 / \nu_i s_i^2)\Big]
    """

    df: Tensor
    loc: Tensor
    scale: Tensor
    log_normaliser: Tensor

    def __init__(self, df: Tensor, loc: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.noise_size = 2 * loc.numel()
        self.register_buffer("df", df)
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)
        nu = df.to(torch.float64)
        constant = torch.lgamma(nu / 2) - torch.lgamma((nu + 1) / 2) + 0.5 * torch.log(math.pi * nu)
        self.register_buffer("log_normaliser", (constant + scale.to(torch.float64).log()).sum().to(scale.dtype))

    def from_noise(self, noise: Tensor) -> Tensor:
        r"""Noise ``[N, 2 D]`` to draws, :math:`\sqrt{\nu (U^{-2/\nu} - 1)} \cos 2\pi V` with U and V uniform.

        Bailey, "Polar generation of random variates with the t-distribution", Math. Comp. 62 (1994).
        """
        noise = noise.to(torch.float64)
        size = self.loc.size(0)
        nu = self.df.to(torch.float64)
        radius = torch.sqrt(nu * torch.expm1(-2 * torch.special.log_ndtr(noise[:, :size]) / nu))
        # 6.283185307179586 is 2 pi.
        standard = radius * torch.cos(6.283185307179586 * normal_cdf(noise[:, size:]))
        return self.loc + self.scale * standard.to(self.scale.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of ``x[N, D]``: ``[N]``."""
        z = (x - self.loc) / self.scale
        return -(0.5 * (self.df + 1) * torch.log1p(z * z / self.df)).sum(1) - self.log_normaliser


class FoldedUniform(FoldedBase):
    """A uniform distribution over the box ``low <= x < high``; -inf outside."""

    low: Tensor
    high: Tensor
    last: Tensor
    log_normaliser: Tensor

    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.noise_size = low.numel()
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.register_buffer("last", torch.nextafter(high, low))
        volume = (high.to(torch.float64) - low.to(torch.float64)).log().sum()
        self.register_buffer("log_normaliser", volume.to(low.dtype))

    def from_noise(self, noise: Tensor) -> Tensor:
        r"""Noise ``[N, D]`` to draws, :math:`a + (b - a)\Phi(z)`, counted from the nearer end."""
        noise = noise.to(torch.float64)
        low, high = self.low.to(torch.float64), self.high.to(torch.float64)
        step = (high - low) * normal_cdf(-noise.abs())
        x = torch.where(noise < 0, low + step, high - step).to(self.low.dtype)
        # The upper end itself lies outside, and rounding may reach it.
        return torch.minimum(x, self.last)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of ``x[N, D]``: ``[N]``; NaN for a NaN row."""
        outside = ((x < self.low) | (x >= self.high)).any(1)
        inside = torch.zeros_like(x).masked_fill(torch.isnan(x), float("nan")).sum(1) - self.log_normaliser
        return inside.masked_fill(outside, -float("inf"))


class FoldedNormalMixture(FoldedBase):
    r"""Mixtures of diagonal normals: G independent blocks of E dimensions, each a mixture of K components.

    One block (G = 1) is a mixture over the whole event; blocks of one dimension (E = 1) are a mixture for each of them.

    .. math:: \log p(x) = \sum_g \log \sum_k w_{gk} \prod_e \mathcal N(x_{ge}; m_{gke}, s_{gke}^2)

    Args:
        logits: ``[G, K]``, logarithms of the weights, not necessarily normalised.
        loc: ``[G, K, E]``.
        scale: ``[G, K, E]``.
    """

    loc: Tensor
    scale: Tensor
    log_factor: Tensor
    bounds: Tensor
    blocks: Tensor

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor) -> None:
        super().__init__()
        blocks, _, self.block_size = loc.shape
        self.event_size = blocks * self.block_size
        self.noise_size = self.event_size + blocks
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)
        log_weights = torch.log_softmax(logits.to(torch.float64), dim=1)
        constant = scale.to(torch.float64).log().sum(2) + 0.5 * self.block_size * math.log(2 * math.pi)
        self.register_buffer("log_factor", (log_weights - constant).to(loc.dtype))
        self.register_buffer("bounds", log_weights.exp().cumsum(1)[:, :-1].contiguous())
        self.register_buffer("blocks", torch.arange(blocks, device=loc.device))

    def from_noise(self, noise: Tensor) -> Tensor:
        """Noise ``[N, D + G]`` to draws: D numbers for the normals, then one for each block to pick its component."""
        u = normal_cdf(noise[:, self.event_size :].to(torch.float64))
        component = (u.unsqueeze(2) >= self.bounds).sum(2)
        loc, scale = self.loc[self.blocks, component], self.scale[self.blocks, component]
        standard = noise[:, : self.event_size].to(self.scale.dtype).reshape([-1, loc.size(1), self.block_size])
        return (loc + scale * standard).reshape([-1, self.event_size])

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of ``x[N, D]``: ``[N]``."""
        z = (x.reshape([-1, self.loc.size(0), 1, self.block_size]) - self.loc) / self.scale
        return torch.logsumexp(self.log_factor - 0.5 * (z * z).sum(3), dim=2).sum(1)
