"""Distributions: the flow, Neal's funnel, and the base distributions a flow can be written down with."""

from flowmodel.distributions.base import base_from_json
from flowmodel.distributions.divergence import kl_of_flows
from flowmodel.distributions.flow import Flow
from flowmodel.distributions.neals_funnel import NealsFunnel

__all__ = ["Flow", "NealsFunnel", "base_from_json", "kl_of_flows"]
