"""Any torch module as a classifier."""

from __future__ import annotations

from copy import deepcopy
from itertools import chain
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn

from carma.classifiers.base import Classifier
from carma.classifiers.black_box import ScoreOf, check_score_of
from carma.errors import BundleError, ClassifierError
from carma.schema import Schema
from carma.state import State

__all__ = ["Output", "TorchClassifier"]

Output = Literal["logit", "probability"]

# About the resolution of float32 just below 1; a logit of 16.
EPS = 1e-7
# A float32 softmax may sum to a little more than 1.
SLACK = 1e-6


class TorchClassifier(Classifier):
    """A torch module that maps people to the log-odds or probability of the favourable outcome.

    The module is copied; the copy is put in evaluation mode and its parameters are frozen, so
    that training the original further changes nothing here. Rows are cast to the type and
    device of the module's parameters, its output back to float64 and the device of the rows.

    Args:
        schema: The problem.
        module: Maps rows of model space, shape ``(n, d)``, to shape ``(n,)`` or ``(n, 1)``. It
            standardises by itself, if it needs to.
        output: What the module gives: ``logit`` or ``probability``. A probability ``p`` becomes
            ``log(p / (1 - p))`` after it is clamped to ``[1e-7, 1 - 1e-7]``; where it is clamped
            the gradient is zero, so a module that saturates steers better as a logit.
        score_of: ``unfavourable`` where the module gives a risk: logit or probability of the
            outcome that people fear.

    Raises:
        ClassifierError: ``module`` is no ``torch.nn.Module``, or ``output`` or ``score_of`` is
            neither of its two.

    Example:
        >>> from carma import CausalGraph, Feature
        >>> schema = Schema((Feature("income"),), CausalGraph(("income",)))
        >>> module = nn.Linear(1, 1)
        >>> _ = nn.init.constant_(module.weight, 2.0), nn.init.constant_(module.bias, -1.0)
        >>> classifier = TorchClassifier(schema, module)
        >>> classifier.logit(torch.tensor([[3.0]], dtype=torch.float64)).tolist()
        [5.0]
    """

    kind: ClassVar[str] = "torch_module"

    def __init__(
        self,
        schema: Schema,
        module: nn.Module,
        output: Output = "logit",
        *,
        score_of: ScoreOf = "favourable",
    ) -> None:
        super().__init__(schema)
        if not isinstance(module, nn.Module):
            raise ClassifierError.of("TorchClassifier", "module", "be a torch.nn.Module", module)
        if output not in get_args(Output):
            rule = "be logit or probability"
            raise ClassifierError.of("TorchClassifier", "output", rule, output)
        check_score_of("TorchClassifier", score_of)
        self.output, self.score_of = output, score_of
        self.module = deepcopy(module).eval().requires_grad_(False)

    def _logit(self, x: Tensor) -> Tensor:
        answer = self.module(self._cast(x))
        if not isinstance(answer, Tensor):
            rule = "be one tensor"
            raise ClassifierError.of("TorchClassifier", "output", rule, type(answer).__name__)
        flat = self._one_a_row(answer, len(x)).to(x.device, torch.float64)
        logit = flat if self.output == "logit" else _log_odds(flat)
        return logit if self.score_of == "favourable" else -logit

    def _cast(self, x: Tensor) -> Tensor:
        stored = chain(self.module.parameters(), self.module.buffers())
        reference = next((t for t in stored if t.is_floating_point()), None)
        return x if reference is None else x.to(reference.device, reference.dtype)

    def _one_a_row(self, answer: Tensor, n: int) -> Tensor:
        # A module that squeezes gives no axis at all for a single row.
        if tuple(answer.shape) not in {(n,), (n, 1)} and not (n == 1 and answer.ndim == 0):
            rule = (
                f"have shape ({n},) or ({n}, 1), one number a row; of two class columns, give "
                "the favourable logit less the other, or the favourable probability"
            )
            raise ClassifierError.of("TorchClassifier", "output", rule, tuple(answer.shape))
        return answer.reshape(n)

    def state(self) -> State:
        """Settings and tensors, without the module's code.

        Returns:
            Output, outcome, the module's class name, and copies of its ``state_dict``.

        Raises:
            ClassifierError: The module keeps something else than tensors in its ``state_dict``.
        """
        content = self.module.state_dict()
        other = [name for name, value in content.items() if not isinstance(value, Tensor)]
        if other:
            rule = "hold tensors only in its state_dict"
            raise ClassifierError.of("TorchClassifier", "module", rule, other)
        config = {"output": self.output, "module": _class_name(self.module)}
        config["score_of"] = self.score_of
        return State(config, {name: _copy(tensor) for name, tensor in content.items()})

    @classmethod
    def from_state(cls, schema: Schema, state: State, module: nn.Module | None = None) -> Self:
        """Put saved tensors back into an architecture.

        Args:
            schema: The problem.
            state: What ``state`` returned.
            module: A module of the saved class and architecture, with any parameters; it is
                copied. State holds no code, so the caller has to bring it.

        Returns:
            A classifier that answers as the saved one did.

        Raises:
            BundleError: ``module`` is absent, of another class, or the tensors do not fit it.

        Example:
            >>> from carma import CausalGraph, Feature
            >>> schema = Schema((Feature("income"),), CausalGraph(("income",)))
            >>> saved = TorchClassifier(schema, nn.Linear(1, 1)).state()
            >>> TorchClassifier.from_state(schema, saved, nn.Linear(1, 1)).output
            'logit'
            >>> TorchClassifier.from_state(schema, saved)
            Traceback (most recent call last):
            carma.errors.BundleError: TorchClassifier: 'module' must be handed in: ...
        """
        name = state.config["module"]
        if module is None:
            rule = f"be handed in: a bundle holds no code, only the tensors of a {name}"
            raise BundleError.of("TorchClassifier", "module", rule, None)
        if _class_name(module) != name:
            rule = f"be a {name}, as saved"
            raise BundleError.of("TorchClassifier", "module", rule, _class_name(module))
        module = deepcopy(module)
        try:
            # Assigned, not copied into place: each tensor keeps the type it was saved in.
            tensors = {name: _copy(tensor) for name, tensor in state.tensors.items()}
            module.load_state_dict(tensors, strict=True, assign=True)
        except RuntimeError as error:
            rule = "have the saved architecture; the tensors do not fit"
            # The first line only says that the rest are errors.
            reason = str(error).partition("\n\t")[2] or str(error)
            raise BundleError.of("TorchClassifier", "module", rule, reason) from error
        return cls(schema, module, state.config["output"], score_of=state.config["score_of"])


def _log_odds(probability: Tensor) -> Tensor:
    outside = (probability < -SLACK) | (probability > 1 + SLACK)
    if bool(outside.any()):
        rule = "lie between 0 and 1 as a probability; for log-odds pass output='logit'"
        value = probability[outside][0].item()
        raise ClassifierError.of("TorchClassifier", "output", rule, value)
    return torch.logit(probability, eps=EPS)


def _class_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
