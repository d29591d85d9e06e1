"""Engines: what holds published models and computes with them."""
