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


def boxes(n: int, seed: int, share_open: float = 0.0) -> tuple[Tensor, Tensor]:
    """Random boxes, small and large; a share of the ends is infinite."""
    generator = torch.Generator().manual_seed(seed)
    centre, is_open = 2 * rows(n), torch.rand(2, n, 3, generator=generator) < share_open
    around = torch.randn(2, n, 3, generator=generator, dtype=torch.float64).exp().square() - 0.1
    lower, upper = centre - around[0].clamp(min=0), centre + around[1].clamp(min=0)
    return lower.masked_fill(is_open[0], -torch.inf), upper.masked_fill(is_open[1], torch.inf)


def points_of(lower: Tensor, upper: Tensor, seed: int) -> Tensor:
    """One point of each box: inside, on a side or in a corner."""
    generator = torch.Generator().manual_seed(seed)
    near, far = lower.clamp(min=-1e3), upper.clamp(max=1e3)
    share = 2 * torch.rand(lower.shape, generator=generator, dtype=torch.float64) - 0.5
    return torch.minimum(torch.maximum(near + share.clamp(0, 1) * (far - near), near), far)


@every_case
@every_activation
class TestBounds:
    @given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 1.0]))
    @settings(max_examples=15, deadline=None)
    def test_no_point_of_a_box_leaves_its_bounds(
        self, name: str, activation: str, seed: int, share_open: float
    ) -> None:
        classifier, (lower, upper) = build(name, activation), boxes(50, seed, share_open)
        low, high = classifier.bounds(lower, upper)
        assert low.shape == high.shape == (50,)
        for k in range(10):
            logit = classifier.logit(points_of(lower, upper, seed + k))
            assert bool(((low <= logit) & (logit <= high)).all())

    def test_a_point_has_its_logit_as_both_bounds(self, name: str, activation: str) -> None:
        classifier, x = build(name, activation), rows()
        low, high = classifier.bounds(x, x)
        torch.testing.assert_close(low, classifier.logit(x), rtol=0, atol=1e-9)
        torch.testing.assert_close(high, classifier.logit(x), rtol=0, atol=1e-9)

    def test_a_larger_box_has_no_tighter_bounds(self, name: str, activation: str) -> None:
        classifier = build(name, activation)
        lower, upper = boxes(50, 1)
        more_below, more_above = boxes(50, 2, 0.2)
        low, high = classifier.bounds(lower, upper)
        wide_low, wide_high = classifier.bounds(
            torch.minimum(lower, more_below), torch.maximum(upper, more_above)
        )
        assert bool((wide_low <= low + 1e-9).all())
        assert bool((wide_high >= high - 1e-9).all())


class TestBoundsByHand:
    @given(st.integers(0, 10_000))
    @settings(max_examples=15, deadline=None)
    def test_exact_for_a_linear_classifier(self, seed: int) -> None:
        classifier, (lower, upper) = build("one-layer"), boxes(50, seed, 0.1)
        known = classifier.linear_weights
        assert known is not None
        weights, bias = known
        low, high = classifier.bounds(lower, upper)
        least = torch.where(weights > 0, lower, upper) @ weights + bias
        greatest = torch.where(weights > 0, upper, lower) @ weights + bias
        torch.testing.assert_close(low, least, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(high, greatest, rtol=1e-9, atol=1e-9)

    def test_one_hidden_unit(self) -> None:
        weights = [torch.tensor([[1.0, -2.0, 0.0]]), torch.tensor([[-3.0]])]
        classifier = NetworkClassifier(SCHEMA, PLAIN, weights, [torch.ones(1), torch.ones(1)])
        box = torch.tensor([[0.0, 0.0, -torch.inf]]), torch.tensor([[2.0, 1.0, torch.inf]])
        low, high = classifier.bounds(*box)
        assert (low.item(), high.item()) == pytest.approx((1 - 3 * 3, 1 - 3 * 0))

    def test_one_open_side_opens_one_bound(self) -> None:
        classifier = NetworkClassifier(
            SCHEMA, PLAIN, [torch.tensor([[1.0, -1.0, 0.0]])], [torch.zeros(1)]
        )
        low, high = classifier.bounds(torch.zeros(1, 3), torch.tensor([[torch.inf, 2.0, 1.0]]))
        assert low.item() == pytest.approx(-2)
        assert high.item() == torch.inf

    def test_saturating_units_stay_bounded_over_all_of_space(self) -> None:
        everywhere = torch.full((1, 3), torch.inf)
        weights, biases = layers("two-layers")
        reach = float(weights[1].abs().sum())
        low, high = build("two-layers", "tanh").bounds(-everywhere, everywhere)
        middle = float(biases[1])
        assert (low.item(), high.item()) == pytest.approx((middle - reach, middle + reach))

    @pytest.mark.parametrize(
        ("lower", "upper", "expected"),
        [
            (-9.0, -3.0, (0.0, 0.0)),
            (-2.0, 0.0, (0.25, 0.75)),
            (-2.0, 1.5, (0.25, 1.0)),
            (1.0, 1.0, (1.0, 1.0)),
            (1.25, torch.inf, (0.0, 0.75)),
            (-torch.inf, torch.inf, (0.0, 1.0)),
        ],
    )
    def test_hat(self, lower: float, upper: float, expected: tuple[float, float]) -> None:
        schema, hat = Schema((Feature("a"),), CausalGraph(("a",))), (-3.0, 1.0, 2.0)
        weights, biases = [torch.ones(1, 1)], [torch.zeros(1)]
        classifier = NetworkClassifier(schema, [Input(0, hat)], weights, biases)
        low, high = classifier.bounds(torch.tensor([[lower]]), torch.tensor([[upper]]))
        assert (low.item(), high.item()) == pytest.approx(expected, abs=1e-9)

    def test_numbers_too_large_for_float64_give_no_bound_rather_than_nan(self) -> None:
        huge = torch.full((1, 3), 1e308, dtype=torch.float64)
        weights = [torch.tensor([[10.0, -10.0, 1.0]])]
        classifier = NetworkClassifier(SCHEMA, PLAIN, weights, [torch.zeros(1)])
        low, high = classifier.bounds(-huge, huge)
        assert (low.item(), high.item()) == (-torch.inf, torch.inf)

    def test_boxes_are_checked(self) -> None:
        classifier, x = build("two-layers"), rows()
        turned = x.clone()
        turned[4, 1] += 1
        for lower, upper, reason in (
            (x[:, 1:], x, r"'lower' must have shape \(n, 3\)"),
            (x, x[0], r"'upper' must have shape \(n, 3\)"),
            (x, x[1:], "'upper' must have 20 rows, as 'lower' has; got 19"),
            (turned, x, "'lower' must not be above 'upper'; row 4, column b is; got"),
            (x * torch.nan, x, "'lower' must not be above.*got nan"),
        ):
            with pytest.raises(TableError, match=reason):
                classifier.bounds(lower, upper)


class TestLinearWeights:
    @pytest.mark.parametrize("name", ["one-layer", "turned-linear", "twice"])
    def test_weights_and_bias_give_the_logit(self, name: str) -> None:
        inputs = {"one-layer": PLAIN, "turned-linear": PLAIN[::-1], "twice": PLAIN + PLAIN[:1]}
        weight = torch.arange(1.0, 1 + len(inputs[name])).unsqueeze(0)
        classifier = NetworkClassifier(SCHEMA, inputs[name], [weight], [torch.tensor([0.5])])
        known = classifier.linear_weights
        assert known is not None
        weights, bias = known
        torch.testing.assert_close(rows() @ weights + bias, classifier.logit(rows()))

    @pytest.mark.parametrize("name", ["two-layers", "three-layers", "hats", "hats-deep"])
    def test_other_networks_have_none(self, name: str) -> None:
        assert build(name).linear_weights is None


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
        with pytest.raises(ClassifierError, match=r"be a number .*; row 0 of 20 gives; got nan"):
            classifier.check_on(rows())

    def test_constant_classifier_is_found_before_any_long_work(self) -> None:
        classifier = NetworkClassifier(SCHEMA, PLAIN, [torch.zeros(1, 3)], [torch.zeros(1)])
        with pytest.raises(ClassifierError, match=r"differ between people.*got 0\.5"):
            classifier.check_on(rows())
        classifier.check_on(rows(1))

    def test_usable_classifier_passes(self) -> None:
        build("hats-deep").check_on(rows())
