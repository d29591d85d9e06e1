"""The report: pictures and a page by which a person judges a model before trusting it."""

from flowmodel.report.page import write_report

__all__ = ["write_report"]
