"""Distributions: the flow, and the base distributions it can be written down with."""

from flowmodel.distributions.base import base_from_json
from flowmodel.distributions.flow import Flow

__all__ = ["Flow", "base_from_json"]
