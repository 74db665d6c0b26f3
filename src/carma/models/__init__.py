"""Causal models: known equations, and flows learned from data and a graph."""
