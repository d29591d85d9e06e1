"""Functions of single numbers that the kernel needs: activations, scale functions and what both are made of.

Written with ``exp``, ``log`` and ``sqrt`` alone, so that Triton's interpreter runs the very same code.
"""

import triton
import triton.language as tl


@triton.jit
def expm1(z):
    # Kahan's: what rounding does to e^z cancels against its logarithm.
    grown = tl.exp(z)
    log = tl.log(grown)
    near = (grown - 1.0) * z / tl.where(log == 0.0, 1.0, log)
    return tl.where(grown == 1.0, z, tl.where(z < -17.0, -1.0, near))


@triton.jit
def log1p_exp(z):
    """Of z up to 0."""
    small = tl.exp(z)
    grown = 1.0 + small
    return tl.where(grown == 1.0, small, tl.log(grown) * small / tl.where(grown == 1.0, 1.0, grown - 1.0))


@triton.jit
def softplus(z):
    return tl.where(z > 0.0, z, 0.0) + log1p_exp(-tl.abs(z))


@triton.jit
def activate(z, activation):
    """The activation at this place of ``native_flow.ACTIVATIONS``; NaN stays NaN."""
    h = z
    if activation == 0:
        h = tl.where(z <= 0.0, 0.0, z)
    elif activation == 1:
        shrunk = expm1(-2.0 * tl.abs(z))
        size = -shrunk / (2.0 + shrunk)
        h = tl.where(z < 0.0, -size, size)
    elif activation == 2:
        h = tl.where(z > 0.0, z, expm1(tl.where(z > 0.0, 0.0, z)))
    elif activation == 3:
        h = tl.where(z > 0.0, z, 0.01 * z)
    elif activation == 4:
        h = 1.0 / (1.0 + tl.exp(-z))
    else:
        h = softplus(z)
    return h


@triton.jit
def log_scale(u, scale):
    """The scale function at this place of ``native_flow.SCALES``."""
    s = u
    if scale == 0:
        share = u / 6.907755278982137
        s = u / tl.sqrt(share * share + 1.0)
    elif scale == 2:
        # Far below 0 softplus itself underflows; there log log(1 + e^u) = u - e^u / 2.
        far = u < -20.0
        s = tl.where(far, u - 0.5 * tl.exp(tl.where(far, u, -20.0)), tl.log(softplus(tl.where(far, -20.0, u))))
    elif scale == 3:
        s = tl.where(u < 0.0, u, 0.0) - log1p_exp(-tl.abs(u))
    return s


@triton.jit
def solved(y, mu, raw, scale, low, high):
    raw = tl.where(raw < low, low, tl.where(raw > high, high, raw))
    s = log_scale(raw, scale)
    return (y - mu) * tl.exp(-s), s


@triton.jit
def evaluated(x, mu, raw, scale, low, high):
    raw = tl.where(raw < low, low, tl.where(raw > high, high, raw))
    s = log_scale(raw, scale)
    return mu + tl.exp(s) * x, s
