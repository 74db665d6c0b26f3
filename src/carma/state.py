"""What a fitted part is made of: plain settings and tensors, never code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["State", "one_thread", "prefixed", "seeded", "unprefixed"]


@dataclass(frozen=True)
class State:
    """Settings (JSON) and tensors of one fitted part.

    Args:
        config: Anything that JSON can hold.
        tensors: Tensors by name.

    Example:
        >>> State({"hidden": [8]}, {"w": torch.ones(1)}).fingerprint()[:8]
        'f0045a5d'
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """SHA-256 over settings, names, shapes, types and bytes."""
        digest = hashlib.sha256(canonical_json(self.config).encode())
        for name in sorted(self.tensors):
            tensor = self.tensors[name].detach().cpu().contiguous()
            digest.update(f"|{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


def canonical_json(content: Any) -> str:
    """JSON text that is the same for equal content."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put ``prefix.`` before every name."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def unprefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keep the names that start with ``prefix.`` and drop the prefix."""
    start = f"{prefix}."
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}


def seeded(seed: int) -> torch.Generator:
    """A generator of its own; torch's global one is left alone."""
    return torch.Generator().manual_seed(seed)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread inside; also a decorator.

    Sums over rows then have one order, so that a fit depends on its seed and not on the number
    of cores. The batches of a fit are too small for a second thread to help.

    Example:
        >>> with one_thread():
        ...     torch.get_num_threads()
        1
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
