"""Any torch module as a classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from carma import CausalGraph, Feature, Schema
from carma.classifiers.torch_module import EPS, TorchClassifier
from carma.errors import BundleError, ClassifierError, TableError

NAMES = ("income", "savings", "age")
SCHEMA = Schema(tuple(Feature(name) for name in NAMES), CausalGraph(NAMES))


class Function(nn.Module):
    """A module without parameters."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Scaled(nn.Module):
    """Standardises by buffers and gives one axis."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([1.0, 2.0, 3.0]))
        self.linear = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.linear(x - self.mean).squeeze(-1)
        return answer


class WithNote(nn.Linear):
    """Keeps something besides tensors in its state."""

    def get_extra_state(self) -> str:
        return "note"

    def set_extra_state(self, state: Any) -> None:
        pass


def trained(module: nn.Module) -> nn.Module:
    """Give running statistics and the like something to hold."""
    torch.manual_seed(0)
    module.train()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
        module(torch.randn(32, 3, dtype=next(module.parameters()).dtype))
    return module


MODULES: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(3, 1),
    "mlp": lambda: nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)),
    "mlp-float64": lambda: nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double(),
    "dropout": lambda: nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1)),
    "batch-norm": lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)),
    "one-axis": Scaled,
    "flattened": lambda: nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)),
}
OUTPUTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "logit": lambda module: module,
    "probability": lambda module: nn.Sequential(module, nn.Sigmoid()),
}

every_module = pytest.mark.parametrize("name", MODULES)
every_output = pytest.mark.parametrize("output", OUTPUTS)


def build(name: str, output: Any) -> tuple[nn.Module, TorchClassifier]:
    module = OUTPUTS[output](trained(MODULES[name]()))
    return module, TorchClassifier(SCHEMA, module, output)


def rows(n: int = 12) -> Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@every_module
@every_output
class TestIdentities:
    def test_answers_as_the_module_does(self, name: str, output: str) -> None:
        module, classifier = build(name, output)
        module.eval()
        x = rows()
        with torch.no_grad():
            answer = module(x.to(next(module.parameters()).dtype)).reshape(-1).double()
        expected = torch.sigmoid(answer) if output == "logit" else answer
        ours = classifier.probability(x)
        assert ours.dtype == torch.float64
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)

    def test_gradient_is_the_slope(self, name: str, output: str) -> None:
        # In float64, so that the finite difference is worth comparing with.
        _, classifier = build(name, output)
        classifier.module.double()
        assert torch.autograd.gradcheck(classifier.logit, rows(4).requires_grad_())

    def test_rows_do_not_see_each_other(self, name: str, output: str) -> None:
        _, classifier = build(name, output)
        x = rows()
        whole, order = classifier.logit(x), torch.arange(len(x)).flip(0)
        torch.testing.assert_close(classifier.logit(x[order]), whole[order], rtol=0, atol=1e-5)
        torch.testing.assert_close(classifier.logit(x[:1]), whole[:1], rtol=0, atol=1e-5)

    def test_same_answer_every_time(self, name: str, output: str) -> None:
        _, classifier = build(name, output)
        assert torch.equal(classifier.logit(rows()), classifier.logit(rows()))

    def test_bounds_are_known_at_single_points_only(self, name: str, output: str) -> None:
        _, classifier = build(name, output)
        lower = rows()
        upper = lower.clone()
        upper[3:, 1] += 1
        upper[5] = torch.inf
        low, high = classifier.bounds(lower, upper)
        torch.testing.assert_close(low[:3], classifier.logit(lower)[:3], rtol=0, atol=1e-5)
        assert torch.equal(low[:3], high[:3])
        assert bool((low[3:] == -torch.inf).all())
        assert bool((high[3:] == torch.inf).all())
        assert classifier.linear_weights is None

    def test_state_round_trip_answers_the_same(self, name: str, output: str) -> None:
        _, classifier = build(name, output)
        state = classifier.state()
        architecture = OUTPUTS[output](MODULES[name]())
        again = TorchClassifier.from_state(SCHEMA, state, architecture)
        assert torch.equal(again.logit(rows()), classifier.logit(rows()))
        assert again.state().fingerprint() == state.fingerprint()
        assert again.output == output

    def test_no_parameter_gathers_gradients(self, name: str, output: str) -> None:
        _, classifier = build(name, output)
        x = rows().requires_grad_()
        (gradient,) = torch.autograd.grad(classifier.logit(x).sum(), x)
        assert bool(gradient.any())
        assert not classifier.module.training
        assert all(not p.requires_grad for p in classifier.module.parameters())


class TestIsolation:
    def test_original_stays_trainable(self) -> None:
        module = nn.Sequential(nn.Linear(3, 1), nn.Dropout())
        TorchClassifier(SCHEMA, module)
        assert module.training
        assert all(p.requires_grad for p in module.parameters())

    def test_training_on_changes_nothing_here(self) -> None:
        module = nn.Linear(3, 1)
        classifier = TorchClassifier(SCHEMA, module)
        state, before = classifier.state(), classifier.logit(rows())
        nn.init.zeros_(module.weight)
        assert torch.equal(classifier.logit(rows()), before)
        assert classifier.state().fingerprint() == state.fingerprint()

    def test_state_is_a_copy(self) -> None:
        classifier = TorchClassifier(SCHEMA, nn.Linear(3, 1))
        before = classifier.logit(rows())
        classifier.state().tensors["weight"].zero_()
        assert torch.equal(classifier.logit(rows()), before)

    def test_rebuilding_leaves_architecture_and_state_alone(self) -> None:
        state = TorchClassifier(SCHEMA, nn.Linear(3, 1)).state()
        architecture = nn.Linear(3, 1)
        weight, print_ = architecture.weight.detach().clone(), state.fingerprint()
        again = TorchClassifier.from_state(SCHEMA, state, architecture)
        again.module.get_parameter("weight").zero_()
        assert torch.equal(architecture.weight, weight)
        assert state.fingerprint() == print_

    def test_saved_types_survive_a_float32_architecture(self) -> None:
        classifier = TorchClassifier(SCHEMA, nn.Linear(3, 1).double())
        again = TorchClassifier.from_state(SCHEMA, classifier.state(), nn.Linear(3, 1))
        assert torch.equal(again.logit(rows()), classifier.logit(rows()))


class TestOutput:
    def test_module_without_parameters_sees_float64(self) -> None:
        classifier = TorchClassifier(SCHEMA, Function(lambda x: x.sum(1)))
        x = rows()
        assert torch.equal(classifier.logit(x), x.sum(1))

    @pytest.mark.parametrize("shift", [0.0, 1e3])
    @pytest.mark.parametrize("scale", [1.0, 1e4])
    def test_module_sees_original_units(self, shift: float, scale: float) -> None:
        classifier = TorchClassifier(SCHEMA, Function(lambda x: x.mean(1)))
        x = rows() * scale + shift
        torch.testing.assert_close(classifier.logit(x), rows().mean(1) * scale + shift)

    def test_single_row_of_a_module_that_squeezes(self) -> None:
        classifier = TorchClassifier(SCHEMA, Function(lambda x: x[:, :1].squeeze()))
        assert torch.equal(classifier.logit(rows(1)), rows(1)[:, 0])

    @pytest.mark.parametrize("probability", [0.0, 1.0, 1.0 + 2e-7])
    def test_certain_probability_is_clamped(self, probability: float) -> None:
        module = Function(lambda x: torch.full_like(x[:, 0], probability))
        logit = TorchClassifier(SCHEMA, module, "probability").logit(rows(2))
        edge = torch.logit(torch.tensor(1 - EPS, dtype=torch.float64)).item()
        assert logit.abs().tolist() == pytest.approx([edge, edge])
        assert bool((logit > 0).all()) == (probability > 0.5)

    def test_clamped_probability_has_no_slope(self) -> None:
        module = Function(lambda x: torch.sigmoid(x[:, 0]))
        x = torch.tensor([[0.0, 0, 0], [40.0, 0, 0]], dtype=torch.float64, requires_grad=True)
        classifier = TorchClassifier(SCHEMA, module, "probability")
        (gradient,) = torch.autograd.grad(classifier.logit(x).sum(), x)
        assert gradient[:, 0].tolist() == pytest.approx([1.0, 0.0])

    @pytest.mark.parametrize("output", ["logit", "probability"])
    def test_nan_is_found_before_any_long_work(self, output: Any) -> None:
        module = Function(lambda x: torch.full_like(x[:, 0], torch.nan))
        classifier = TorchClassifier(SCHEMA, module, output)
        with pytest.raises(ClassifierError, match=r"be a number .*; row 0 of 12 gives; got nan"):
            classifier.check_on(rows())


BAD_OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "two-columns": (lambda x: x[:, :2], r"\(12,\) or \(12, 1\).*of two class columns"),
    "one-number": (lambda x: x.sum(), r"one number a row.*got \(\)"),
    "turned": (lambda x: x[:, :1].T, r"got \(1, 12\)"),
    "three-axes": (lambda x: x[:, :1, None], r"got \(12, 1, 1\)"),
    "fewer-rows": (lambda x: x[1:, 0], r"got \(11,\)"),
    "tuple": (lambda x: (x[:, 0], x), "be one tensor; got 'tuple'"),
}


class TestBadInput:
    @pytest.mark.parametrize("name", BAD_OUTPUTS)
    def test_output_of_another_form(self, name: str) -> None:
        function, reason = BAD_OUTPUTS[name]
        classifier = TorchClassifier(SCHEMA, Function(function))
        with pytest.raises(ClassifierError, match=reason):
            classifier.logit(rows())

    @pytest.mark.parametrize("value", [-0.5, 1.5])
    def test_log_odds_declared_as_probability(self, value: float) -> None:
        module = Function(lambda x: torch.full_like(x[:, 0], value))
        classifier = TorchClassifier(SCHEMA, module, "probability")
        with pytest.raises(ClassifierError, match=f"between 0 and 1 .*output='logit'; got {value}"):
            classifier.logit(rows())

    def test_rows_of_another_width(self) -> None:
        classifier = TorchClassifier(SCHEMA, nn.Linear(3, 1))
        with pytest.raises(TableError, match=r"have shape \(n, 3\); got \(2, 4\)"):
            classifier.logit(torch.zeros(2, 4))

    def test_no_module(self) -> None:
        function: Any = torch.sum
        with pytest.raises(ClassifierError, match=r"'module' must be a torch\.nn\.Module"):
            TorchClassifier(SCHEMA, function)

    def test_unknown_output(self) -> None:
        output: Any = "score"
        with pytest.raises(ClassifierError, match="must be logit or probability; got 'score'"):
            TorchClassifier(SCHEMA, nn.Linear(3, 1), output)

    def test_state_that_is_more_than_tensors(self) -> None:
        classifier = TorchClassifier(SCHEMA, WithNote(3, 1))
        with pytest.raises(ClassifierError, match=r"hold tensors only.*_extra_state"):
            classifier.state()

    @pytest.mark.parametrize(
        ("module", "reason"),
        [
            (None, r"handed in: a bundle holds no code, only the tensors of a torch\..*Linear"),
            (nn.Sequential(nn.Linear(3, 1)), r"be a torch\..*Linear, as saved; got '.*Sequential"),
            (nn.Linear(4, 1), "tensors do not fit; got 'size mismatch for weight"),
            (nn.Linear(3, 1, bias=False), "tensors do not fit; got 'Unexpected key.*bias"),
        ],
    )
    def test_architecture_that_does_not_fit(self, module: nn.Module | None, reason: str) -> None:
        state = TorchClassifier(SCHEMA, nn.Linear(3, 1)).state()
        with pytest.raises(BundleError, match=reason):
            TorchClassifier.from_state(SCHEMA, state, module)
