"""Causal algorithmic recourse at scale."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carma.errors import CarmaError as CarmaError
    from carma.graph import CausalGraph as CausalGraph
    from carma.models.flow import CausalFlow as CausalFlow
    from carma.schema import Feature as Feature
    from carma.schema import Schema as Schema

_HOMES = {
    "CarmaError": "carma.errors",
    "CausalFlow": "carma.models.flow",
    "CausalGraph": "carma.graph",
    "Feature": "carma.schema",
    "Schema": "carma.schema",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'carma' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
