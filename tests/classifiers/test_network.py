"""Linear layers on table columns: the formula, the hats, the shapes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from carma import CausalGraph, Feature, Schema
from carma.classifiers.network import Input, NetworkClassifier
from carma.errors import ClassifierError, TableError

NAMES = ("a", "b", "c")
SCHEMA = Schema(
    tuple(Feature(name) for name in NAMES), CausalGraph(NAMES), "granted", "yes", threshold=0.7
)
PLAIN = tuple(Input(i) for i in range(3))
HATS = (Input(2), Input(0, (-1.0, 0.0, 2.0)), Input(0), Input(1, (1.0, 2.0, 3.0)))

ACTIVATIONS: dict[str, Any] = {
    "relu": lambda h: np.maximum(h, 0),
    "tanh": np.tanh,
    "logistic": lambda h: 1 / (1 + np.exp(-h)),
    "identity": lambda h: h,
}
CASES: dict[str, tuple[tuple[Input, ...], tuple[int, ...]]] = {
    "one-layer": (PLAIN, ()),
    "two-layers": (PLAIN, (4,)),
    "three-layers": (PLAIN, (4, 2)),
    "turned": (PLAIN[::-1], (4,)),
    "one-of-three": (PLAIN[1:2], (2,)),
    "hats": (HATS, ()),
    "hats-deep": (HATS, (3,)),
}

every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)
every_case = pytest.mark.parametrize("name", CASES)


def layers(name: str) -> tuple[list[Tensor], list[Tensor]]:
    inputs, hidden = CASES[name]
    generator = torch.Generator().manual_seed(len(name))
    sizes = list(pairwise((len(inputs), *hidden, 1)))
    weights = [torch.randn(b, a, generator=generator, dtype=torch.float64) for a, b in sizes]
    return weights, [torch.randn(b, generator=generator, dtype=torch.float64) for _, b in sizes]


def build(name: str, activation: Any = "tanh") -> NetworkClassifier:
    return NetworkClassifier(SCHEMA, CASES[name][0], *layers(name), activation)


def rows(n: int = 20) -> Tensor:
    return 2 * torch.randn(n, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def seen(inputs: tuple[Input, ...], x: Tensor) -> Any:
    """What the first layer sees, by numpy's own interpolation."""
    columns = x.numpy().T
    return np.stack(
        [
            columns[i.column] if i.hat is None else np.interp(columns[i.column], i.hat, (0, 1, 0))
            for i in inputs
        ]
    )


@every_case
@every_activation
class TestIdentities:
    def test_logit_is_the_formula(self, name: str, activation: str) -> None:
        weights, biases = layers(name)
        h = seen(CASES[name][0], rows())
        for k, (w, b) in enumerate(zip(weights, biases, strict=True)):
            h = w.numpy() @ (ACTIVATIONS[activation](h) if k else h) + b.numpy()[:, None]
        logit = build(name, activation).logit(rows())
        torch.testing.assert_close(logit, torch.from_numpy(h[0]), rtol=0, atol=1e-12)

    def test_gradient_is_the_slope(self, name: str, activation: str) -> None:
        x = rows(6).requires_grad_()
        assert torch.autograd.gradcheck(build(name, activation).logit, x, eps=1e-7)

    def test_state_round_trip_answers_the_same(self, name: str, activation: str) -> None:
        classifier = build(name, activation)
        again = NetworkClassifier.from_state(SCHEMA, classifier.state())
        assert torch.equal(again.logit(rows()), classifier.logit(rows()))
        assert again.state().fingerprint() == classifier.state().fingerprint()

    def test_rows_do_not_see_each_other(self, name: str, activation: str) -> None:
        classifier, x = build(name, activation), rows()
        whole, order = classifier.logit(x), torch.arange(len(x)).flip(0)
        torch.testing.assert_close(classifier.logit(x[order]), whole[order], rtol=0, atol=1e-12)
        torch.testing.assert_close(classifier.logit(x[3:4]), whole[3:4], rtol=0, atol=1e-12)

    def test_rows_are_left_as_they_were(self, name: str, activation: str) -> None:
        x = rows()
        build(name, activation).logit(x)
        assert torch.equal(x, rows())


class TestForm:
    def test_probability_is_the_sigmoid_of_the_logit(self) -> None:
        classifier = build("two-layers")
        logit, probability = classifier.logit(rows()), classifier.probability(rows())
        torch.testing.assert_close(torch.logit(probability), logit)

    def test_threshold_and_favourable_are_the_schemas(self) -> None:
        classifier = build("one-layer")
        assert (classifier.threshold, classifier.favourable) == (0.7, "yes")
        assert classifier.kind == "network"

    @given(st.floats(-1e3, 1e3), st.floats(0.01, 100))
    @settings(max_examples=30, deadline=None)
    def test_moving_column_and_weights_together_changes_nothing(
        self, shift: float, scale: float
    ) -> None:
        plain = build("two-layers")
        (first, last), biases = layers("two-layers")
        moved = NetworkClassifier(
            SCHEMA,
            PLAIN,
            [first / scale, last],
            [biases[0] - first.sum(1) * shift / scale, biases[1]],
            "tanh",
        )
        torch.testing.assert_close(
            moved.logit(rows() * scale + shift), plain.logit(rows()), rtol=0, atol=1e-7
        )

    def test_order_of_inputs_does_not_matter(self) -> None:
        weights, biases = layers("two-layers")
        turned = [weights[0].flip(1), weights[1]]
        classifier = NetworkClassifier(SCHEMA, PLAIN[::-1], turned, biases, "tanh")
        torch.testing.assert_close(classifier.logit(rows()), build("two-layers").logit(rows()))

    def test_works_in_float64_on_float32_rows_and_weights(self) -> None:
        weights = [torch.tensor([[0.1, 0.2, 0.3]])]
        classifier = NetworkClassifier(SCHEMA, PLAIN, weights, [torch.tensor([1.0])])
        logit = classifier.logit(torch.ones(2, 3))
        assert logit.dtype == torch.float64
        assert logit.tolist() == pytest.approx([1.6, 1.6], abs=1e-6)

    def test_callers_gradient_bookkeeping_is_not_kept(self) -> None:
        weight = torch.ones(1, 3, requires_grad=True)
        classifier = NetworkClassifier(SCHEMA, PLAIN, [weight], [torch.zeros(1)])
        assert not classifier.logit(rows()).requires_grad


class TestHats:
    @given(
        st.lists(st.integers(-1000, 1000), min_size=2, max_size=6, unique=True).map(sorted),
        st.floats(0, 1),
    )
    @settings(max_examples=40, deadline=None)
    def test_hats_of_one_column_share_out_one(self, levels: list[int], between: float) -> None:
        hats = level_hats([float(level) for level in levels])
        values = torch.tensor(levels, dtype=torch.float64)
        at_levels = torch.stack([hat_value(hat, values) for hat in hats])
        torch.testing.assert_close(at_levels, torch.eye(len(levels), dtype=torch.float64))
        inside = values[:-1] + between * values.diff()
        total = torch.stack([hat_value(hat, inside) for hat in hats]).sum(0)
        torch.testing.assert_close(total, torch.ones_like(total))

    @given(st.floats(-1e4, 1e4))
    @settings(max_examples=40, deadline=None)
    def test_hat_lies_between_0_and_1(self, value: float) -> None:
        height = hat_value((-3.0, 1.0, 2.0), torch.tensor([value], dtype=torch.float64))
        assert float(height) == pytest.approx(float(np.interp(value, (-3, 1, 2), (0, 1, 0))))

    def test_hat_has_a_slope_on_each_flank(self) -> None:
        x = torch.tensor([-1.0, 1.5], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(hat_value((-3.0, 1.0, 2.0), x).sum(), x)
        assert slope.tolist() == pytest.approx([0.25, -1.0])


def level_hats(codes: list[float]) -> list[tuple[float, float, float]]:
    around = [codes[0] - 1, *codes, codes[-1] + 1]
    return list(zip(around, around[1:], around[2:], strict=False))


def hat_value(hat: tuple[float, float, float], values: Tensor) -> Tensor:
    schema = Schema((Feature("a"),), CausalGraph(("a",)))
    classifier = NetworkClassifier(schema, [Input(0, hat)], [torch.ones(1, 1)], [torch.zeros(1)])
    return classifier.logit(values.unsqueeze(1))


class TestBadInput:
    @pytest.mark.parametrize(
        ("weights", "biases", "reason"),
        [
            ([(1, 2)], [1], r"'weights' must have shape \(1, 3\); got \(1, 2\)"),
            ([(4, 3), (1, 5)], [4, 1], r"'weights' must have shape \(1, 4\); got \(1, 5\)"),
            ([(2, 3)], [2], r"'biases' must end in one number; got \[3, 2\]"),
        ],
    )
    def test_shapes_that_do_not_chain(
        self, weights: list[tuple[int, int]], biases: list[int], reason: str
    ) -> None:
        with pytest.raises(ClassifierError, match=reason):
            NetworkClassifier(
                SCHEMA, PLAIN, [torch.ones(w) for w in weights], [torch.ones(b) for b in biases]
            )

    @pytest.mark.parametrize("shape", [(3,), (2, 4), (1, 2, 3)])
    def test_rows_of_another_shape(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(TableError, match=r"'x' must have shape \(n, 3\)"):
            build("one-layer").logit(torch.zeros(shape))

    def test_broken_weights_are_found_before_any_long_work(self) -> None:
        weights = [torch.tensor([[1.0, torch.nan, 1.0]])]
        classifier = NetworkClassifier(SCHEMA, PLAIN, weights, [torch.zeros(1)])
        with pytest.raises(ClassifierError, match="be a number; row 0 of 20 gives; got nan"):
            classifier.check_on(rows())

    def test_constant_classifier_is_found_before_any_long_work(self) -> None:
        classifier = NetworkClassifier(SCHEMA, PLAIN, [torch.zeros(1, 3)], [torch.zeros(1)])
        with pytest.raises(ClassifierError, match=r"differ between people.*got 0\.5"):
            classifier.check_on(rows())
        classifier.check_on(rows(1))

    def test_usable_classifier_passes(self) -> None:
        build("hats-deep").check_on(rows())
