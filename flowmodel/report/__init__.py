"""The report: one page by which a person judges a model before trusting it.

Example:
    >>> import torch, flowmodel.bijectors as bij, flowmodel.distributions as dist
    >>> base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)
    >>> "Least likely" in report_of(dist.Flow(base, bij.Affine()), torch.randn(200, 2))
    True
"""

from flowmodel.report.calibration import Calibration, calibration
from flowmodel.report.page import report_of, write_report

__all__ = ["Calibration", "calibration", "report_of", "write_report"]
