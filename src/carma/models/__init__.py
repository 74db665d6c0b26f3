"""Causal models: known equations, and flows and additive noise learned from data and a graph."""
