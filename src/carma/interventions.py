"""An intervention is a value: which columns are set, and to what, for every person."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from carma.errors import ConstraintError
from carma.table import Encoding

__all__ = ["Intervention"]


@dataclass(frozen=True)
class Intervention:
    """do(x[mask] = values), another one for each row of a batch.

    Args:
        mask: Shape ``(n, d)``, bool: true where the column is set.
        values: Shape ``(n, d)``, model space; read only where ``mask`` is true.

    Raises:
        ConstraintError: The shapes differ, or ``mask`` is not boolean.

    Example:
        >>> do = Intervention(torch.tensor([[True, False]]), torch.tensor([[3.0, 0.0]]))
        >>> do.n_actions.tolist()
        [1]
    """

    mask: Tensor
    values: Tensor

    def __post_init__(self) -> None:
        if self.mask.dtype != torch.bool:
            raise ConstraintError.of("Intervention", "mask", "be boolean", self.mask.dtype)
        if self.mask.shape != self.values.shape:
            shapes = (tuple(self.mask.shape), tuple(self.values.shape))
            raise ConstraintError.of("Intervention", "mask and values", "have one shape", shapes)

    @classmethod
    def none(cls, x: Tensor) -> Intervention:
        """The empty intervention for every row of ``x``."""
        return cls(torch.zeros_like(x, dtype=torch.bool), torch.zeros_like(x))

    @classmethod
    def of(cls, encoding: Encoding, n: int, **actions: Tensor | float) -> Intervention:
        """Set features by name: a number for every row, or one number a row.

        Args:
            encoding: Of the schema.
            n: Number of rows.
            actions: Feature name to value(s), original units (the code of a level, also of a
                nominal feature); ``nan`` leaves a row alone.

        Raises:
            SchemaError: There is no such feature.
            ConstraintError: The number of values is not that of the rows, or a value is no
                code of a nominal feature.

        Example:
            >>> from carma.benchmarks import load
            >>> encoding = load("loan", rows=200).encoding
            >>> Intervention.of(encoding, 2, income=3.0).mask.int().tolist()
            [[0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1, 0]]
        """
        mask = torch.zeros(n, encoding.n_columns, dtype=torch.bool)
        values = torch.zeros(n, encoding.n_columns, dtype=torch.float64)
        for name, value in actions.items():
            where = encoding.block(name)
            given = torch.as_tensor(value, dtype=torch.float64)
            if given.shape not in ((), (1,), (n,)):
                rule = f"be one number, or one for each of the {n} rows"
                raise ConstraintError.of("Intervention", name, rule, tuple(given.shape))
            given = given.expand(n)
            mask[:, where] = ~given.isnan()[:, None]
            feature = encoding.schema[name]
            if feature.kind != "nominal":
                values[:, where.start] = given.nan_to_num()
                continue
            codes = torch.tensor(feature.codes, dtype=torch.float64)
            values[:, where] = (given[:, None] == codes).double()
            strange = given[mask[:, where.start] & (values[:, where].sum(dim=1) == 0)]
            if len(strange):
                rule = f"be one of the codes {', '.join(f'{code:g}' for code in feature.codes)}"
                raise ConstraintError.of("Intervention", name, rule, float(strange[0]))
        return cls(mask, values)

    @classmethod
    def joined(cls, parts: list[Intervention]) -> Intervention:
        """Put batches one after the other."""
        masks, values = ([getattr(p, name) for p in parts] for name in ("mask", "values"))
        return cls(torch.cat(masks), torch.cat(values))

    def each(self, function: Callable[[Tensor], Tensor]) -> Intervention:
        """The same function of both tensors."""
        return Intervention(function(self.mask), function(self.values))

    @property
    def n_actions(self) -> Tensor:
        """Number of columns set for each row, shape ``(n,)``."""
        return self.mask.sum(dim=1)
