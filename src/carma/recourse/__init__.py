"""Solvers that turn rejected people into checked plans."""
