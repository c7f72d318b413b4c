"""Routing and pathways of a Mixture of Experts: taps, statistics, probe and rows."""

from jaxpost.probes.routing.probe import Route, Routed, Routing, inner_products, reduce, stacked_router

__all__ = ["Route", "Routed", "Routing", "inner_products", "reduce", "stacked_router"]
