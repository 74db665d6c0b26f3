"""The contract of a causal model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from carma.errors import NotFittedError, SchemaError, TableError
from carma.interventions import Intervention
from carma.models.imputation import N_POOL, Imputation
from carma.schema import Schema
from carma.state import State, one_thread
from carma.table import Encoding, Statistics

__all__ = ["CausalModel"]

# Rows times alternatives that are computed at a time: few enough for the processor's cache.
CHUNK = 16_000


class CausalModel(ABC):
    """Learned or known mechanisms over a causal graph.

    Tensors are rows of model space (see ``Encoding``), float64. Everything is differentiable
    in the values of the intervention. Laws that every model keeps (Pearl 2009, chapter 7):
    the empty intervention gives ``x`` back; a set column has exactly its value; what is no
    effect of a set column does not move; a row's answer does not depend on its batch.

    A subclass implements ``_fit``, ``_abduct``, ``_predict``, ``_sample_latent``,
    ``_log_prob``, ``state`` and ``from_state``; one that is learned may also implement
    ``n_alternatives`` and ``_alternatives``.

    Args:
        schema: The problem.

    Raises:
        SchemaError: The schema has derived features, and this class does not compute them.

    Attributes:
        computes_formulas: Whether it takes a schema with derived features as it is;
            ``WithDerived`` makes any other model one that does.
        encoding: Map between tables and tensors.
        statistics_: Mean, spread and range of the training table.
        n_left_out_: After ``fit``: rows of the table that were not learned from, having gaps.
    """

    kind: ClassVar[str]
    computes_formulas: ClassVar[bool] = False
    statistics_: Statistics
    n_left_out_: int

    def __init__(self, schema: Schema) -> None:
        if schema.formulas and not self.computes_formulas:
            owner = type(self).__name__
            rule = (
                "have no derived features, which are not learned: make "
                f"WithDerived(schema, {owner}(schema.base, ...))"
            )
            raise SchemaError.of(owner, "schema", rule, tuple(schema.formulas))
        self.schema = schema
        self.encoding = Encoding(schema)

    @one_thread()
    def fit(self, table: Any, *, progress: bool | None = None) -> Self:
        """Learn from a table in original units.

        Args:
            table: pandas or polars DataFrame. Rows with gaps are left out, see
                ``Encoding.complete`` for what that assumes.
            progress: Show a bar; ``None`` shows it on a terminal.

        Returns:
            The model itself.

        Raises:
            TableError: The table does not fit the schema, a column is constant, there are
                fewer than two rows, or more than half of them have gaps.
        """
        x = self.encoding.encode(table)
        is_complete = self.encoding.complete(x)
        learned = x[is_complete]
        statistics = Statistics.of(learned, self.encoding)
        # A fit that is interrupted leaves no model half of which is the old one.
        for name in ("statistics_", "_imputation"):
            self.__dict__.pop(name, None)
        self._fit(learned, statistics, progress)
        self.statistics_, self.n_left_out_ = statistics, len(x) - len(learned)
        return self

    @property
    def is_fitted(self) -> bool:
        """True after ``fit``."""
        return hasattr(self, "statistics_")

    @property
    def unknown_levels(self) -> Tensor:
        """Columns of nominal levels about which nothing was learned: nobody had them.

        Shape ``(d,)``, bool. Solvers tell people who have one that there is no plan for them
        (``unknown_level``). Other features have levels on a scale, which models go along.
        """
        return self.statistics_.absent(self.encoding)

    @property
    def adjacency(self) -> Tensor:
        """Shape ``(d, d)``, bool: ``[i, j]`` true when column ``j`` acts on column ``i``."""
        return self.encoding.adjacency

    @property
    def n_latents(self) -> int:
        """Width of ``u``: a number for each column here; a model may have several.

        Those of one column are next to each other, in the order of the columns.
        """
        return self.encoding.n_columns

    @property
    def direct_effects(self) -> Tensor | None:
        """Slopes of the mechanisms, where every one is linear with additive noise, else ``None``.

        Shape ``(d, d)``: ``[i, j]`` is the change of column ``i`` for each unit by which its
        cause, column ``j``, is changed; 0 where ``j`` does not act on ``i``.
        """
        return None

    def abduct(self, x: Tensor) -> Tensor:
        """Find what is particular to each person.

        Args:
            x: Shape ``(n, d)``, model space.

        Returns:
            Exogenous ``u`` (latent ``z`` for learned models), shape ``(n, n_latents)``.
        """
        self._check("abduct", x)
        return self._abduct(x)

    def predict(self, u: Tensor) -> Tensor:
        """Rebuild people from their exogenous values.

        Args:
            u: Shape ``(n, n_latents)``, as ``abduct`` returns it.

        Returns:
            Shape ``(n, d)``, model space.
        """
        self._check("predict", u, self.n_latents)
        return self._predict(u, None, None)

    def counterfactual(
        self, x: Tensor, intervention: Intervention, u: Tensor | None = None
    ) -> Tensor:
        """What ``x`` would have been under the intervention, all else of the person kept.

        Args:
            x: Factual rows, shape ``(n, d)``, model space.
            intervention: Another one for each row.
            u: ``abduct(x)`` where it is known already.

        Returns:
            Shape ``(n, d)``, model space.
        """
        self._check("counterfactual", x)
        self._check_intervention(intervention, len(x))
        return self._counterfactual(x, intervention, u)

    @property
    def n_alternatives(self) -> int:
        """Number of other models that fit the data about as well; a known model has none."""
        return 0

    @property
    def is_point_identified(self) -> bool:
        """Whether a person's facts and the mechanisms leave one counterfactual.

        Where they leave several, ``counterfactual`` is one of them, and the alternatives are
        draws from all: as frequent as they are probable.
        """
        return True

    def alternatives(self, x: Tensor, intervention: Intervention) -> Tensor:
        """Counterfactuals under other models that fit the data about as well.

        Each alternative abducts and predicts with its own mechanisms. Their spread around
        ``counterfactual`` estimates the error of what was learned.

        Args:
            x: Factual rows, shape ``(n, d)``, model space.
            intervention: Another one for each row.

        Returns:
            Shape ``(n_alternatives, n, d)``, model space, under the laws of the class; a known
            model gives ``(0, n, d)``.

        Raises:
            TableError: A shape is another one.
        """
        self._check("alternatives", x)
        self._check_intervention(intervention, len(x))
        if self.n_alternatives == 0:
            return x.new_zeros(0, *x.shape)
        return self._alternatives_in_parts(x, intervention)

    def sample(self, n: int, intervention: Intervention | None = None, *, seed: int = 0) -> Tensor:
        """Draw people, from the intervened population where an intervention is given.

        Args:
            n: Number of rows.
            intervention: Shape ``(n, d)``, another one for each row.
            seed: Of all draws.

        Returns:
            Shape ``(n, d)``, model space.

        Raises:
            TableError: The intervention has another shape.
        """
        if not self.is_fitted:
            raise NotFittedError.of(type(self).__name__, "sample")
        if intervention is not None:
            self._check_intervention(intervention, n)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            u = self._sample_latent(n)
            x = self.encoding.snap(self._predict(u, intervention, None))
        if intervention is None:
            return x
        return torch.where(intervention.mask, intervention.values, x)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of each row in original units, shape ``(n,)``."""
        self._check("log_prob", x)
        return self._log_prob(x)

    def impute(self, x: Tensor) -> Tensor:
        """Fill gaps with what is to be expected, given all that was observed; see ``Imputation``.

        Args:
            x: Shape ``(n, d)``, model space, NaN in all columns of a feature without a value.

        Returns:
            The same shape without NaN: values that can exist; what was observed is unchanged.
        """
        self._check("impute", x)
        # What is made in inference mode could not be used outside of it.
        with torch.inference_mode(False), torch.no_grad():
            return self._imputation.fill(x.clone()) if bool(x.isnan().any()) else x

    @cached_property
    def _imputation(self) -> Imputation:
        return Imputation(self.encoding, self.sample(N_POOL), self._log_prob_of)

    @abstractmethod
    def state(self) -> State:
        """Settings and tensors from which ``from_state`` rebuilds the fitted model."""

    @classmethod
    @abstractmethod
    def from_state(cls, schema: Schema, state: State) -> Self:
        """Rebuild a fitted model."""

    @abstractmethod
    def _fit(self, x: Tensor, statistics: Statistics, progress: bool | None) -> None: ...

    @abstractmethod
    def _abduct(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _predict(
        self, u: Tensor, intervention: Intervention | None, start: Tensor | None
    ) -> Tensor:
        """Run the mechanisms in causal order with set columns held.

        ``start`` holds factual rows that agree with ``u`` wherever no cause is set; columns
        that are no effect of a set column may be returned as they are there.
        """

    def _alternatives(self, x: Tensor, intervention: Intervention) -> Tensor:
        """Shape ``(n_alternatives, n, d)``; what is set or no effect may hold anything.

        Needed only where ``n_alternatives`` is above 0.
        """
        raise NotImplementedError

    def _alternatives_in_parts(self, x: Tensor, intervention: Intervention) -> Tensor:
        """``alternatives`` of a few rows at a time."""
        rows = max(1, CHUNK // self.n_alternatives)
        if len(x) <= rows:
            return self._lawful_alternatives(x, intervention)
        parts = zip(
            *(torch.split(t, rows) for t in (x, intervention.mask, intervention.values)),
            strict=True,
        )
        found = [
            self._lawful_alternatives(part, Intervention(mask, values))
            for part, mask, values in parts
        ]
        return torch.cat(found, dim=1)

    def _lawful_alternatives(self, x: Tensor, intervention: Intervention) -> Tensor:
        """``alternatives``; a model that keeps the laws in what it computes may be faster."""
        return self._with_fixed(self._alternatives(x, intervention), x, intervention)

    def _with_fixed(self, moved: Tensor, x: Tensor, intervention: Intervention) -> Tensor:
        """Rows in which what is set has its value, and what is no effect is as it was."""
        fixed = torch.where(intervention.mask, intervention.values, x)
        return torch.where(self._moves(intervention), moved, fixed)

    def _moves(self, intervention: Intervention) -> Tensor:
        """True where a column follows what is set in its row, shape ``(n, d)``, bool."""
        return self._effects(intervention) & ~intervention.mask

    def _counterfactual(self, x: Tensor, intervention: Intervention, u: Tensor | None) -> Tensor:
        """``counterfactual``; a model that needs less than all of ``u`` may be faster."""
        moved = self._predict(self._abduct(x) if u is None else u, intervention, x)
        return self._with_fixed(moved, x, intervention)

    @abstractmethod
    def _sample_latent(self, n: int) -> Tensor: ...

    @abstractmethod
    def _log_prob(self, x: Tensor) -> Tensor: ...

    def _log_prob_of(self, x: Tensor, columns: Sequence[int]) -> Tensor:  # noqa: ARG002
        """``log_prob`` up to what depends on none of some columns; that may be faster.

        Args:
            x: Shape ``(n, d)``, model space.
            columns: Which; all of a feature.
        """
        return self.log_prob(x)

    def _effects(self, intervention: Intervention) -> Tensor:
        """True where a column is an effect of one that is set in its row, ``(n, d)`` bool."""
        return (intervention.mask.double() @ self.encoding.reach_weights) > 0

    def _check_intervention(self, intervention: Intervention, n: int) -> None:
        given, expected = tuple(intervention.mask.shape), (n, self.encoding.n_columns)
        if given != expected:
            rule = f"have shape {expected}"
            raise TableError.of(type(self).__name__, "intervention", rule, given)

    def _check(self, method: str, x: Tensor, width: int | None = None) -> None:
        if not self.is_fitted:
            raise NotFittedError.of(type(self).__name__, method)
        name, width = ("x", self.encoding.n_columns) if width is None else ("u", width)
        if x.ndim != 2 or x.shape[1] != width:
            rule = f"have shape (n, {width})"
            raise TableError.of(type(self).__name__, name, rule, tuple(x.shape))
