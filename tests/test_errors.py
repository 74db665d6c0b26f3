"""The tree of exceptions and the one message template."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from carma import errors
from carma.errors import CarmaError, InputError, NotFittedError

EVERY = [getattr(errors, name) for name in errors.__all__]
INPUT = [error for error in EVERY if issubclass(error, InputError)]


def test_every_public_exception_is_exported() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert defined == set(errors.__all__)


@pytest.mark.parametrize("error", EVERY)
def test_catching_the_root_catches_all(error: type[CarmaError]) -> None:
    with pytest.raises(CarmaError, match="reason"):
        raise error("reason")


@pytest.mark.parametrize("error", INPUT)
def test_input_errors_are_value_errors_with_one_template(error: type[InputError]) -> None:
    made = error.of("Owner", "argument", "be small", 7)
    assert type(made) is error
    assert isinstance(made, ValueError)
    assert str(made) == "Owner: 'argument' must be small; got 7"


def test_not_fitted_is_no_input_error() -> None:
    made = NotFittedError.of("Model", "predict")
    assert not isinstance(made, ValueError)
    assert str(made) == "Model: call 'fit' before 'predict'"


@pytest.mark.parametrize(("length", "is_cut"), [(118, False), (119, True), (5000, True)])
def test_long_values_are_cut(length: int, is_cut: bool) -> None:
    shown = str(InputError.of("O", "a", "be short", "x" * length)).partition("; got ")[2]
    assert len(shown) == 120
    assert shown.endswith("...") == is_cut


@pytest.mark.parametrize("value", [np.float64(1.5), np.array(1.5), torch.tensor(1.5), 1.5])
def test_numbers_read_the_same_from_every_library(value: object) -> None:
    assert str(InputError.of("O", "a", "be whole", value)).endswith("got 1.5")
