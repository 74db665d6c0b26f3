"""States: equal content, equal fingerprint; any change, another one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from carma.state import State, canonical_json, one_thread, prefixed, seeded, unprefixed

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
TENSORS = {"w": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([3.0])}


@given(st.dictionaries(st.text(max_size=4), JSON))
def test_order_of_names_does_not_matter(config: dict[str, Any]) -> None:
    turned = dict(reversed(config.items()))
    assert canonical_json(config) == canonical_json(turned)
    one = State(config, TENSORS)
    other = State(turned, dict(reversed(TENSORS.items())))
    assert one.fingerprint() == other.fingerprint()


@pytest.mark.parametrize(
    "other",
    [
        State({"a": 2}, TENSORS),
        State({"a": "1"}, TENSORS),
        State({"a": 1}, {}),
        State({"a": 1}, {"w": TENSORS["w"]}),
        State({"a": 1}, {**TENSORS, "c": torch.zeros(0)}),
        State({"a": 1}, {"v": TENSORS["w"], "b": TENSORS["b"]}),
        State({"a": 1}, {"w": TENSORS["b"], "b": TENSORS["w"]}),
        State({"a": 1}, {**TENSORS, "w": TENSORS["w"].T}),
        State({"a": 1}, {**TENSORS, "w": TENSORS["w"].double()}),
        State({"a": 1}, {**TENSORS, "b": torch.nextafter(TENSORS["b"], torch.tensor(4.0))}),
    ],
)
def test_every_change_shows(other: State) -> None:
    assert State({"a": 1}, TENSORS).fingerprint() != other.fingerprint()


def test_layout_and_gradients_do_not_show() -> None:
    wide = torch.arange(6.0).reshape(2, 3)
    turned = wide.T.contiguous().T.requires_grad_()
    assert not turned.is_contiguous()
    assert State({}, {"w": wide}).fingerprint() == State({}, {"w": turned}).fingerprint()


def test_config_is_json() -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            State({"a": value}).fingerprint()
    with pytest.raises(TypeError, match="not JSON serializable"):
        State({"a": torch.ones(1)}).fingerprint()


@given(st.text(max_size=4), st.dictionaries(st.text(max_size=4), st.integers(0, 9)))
def test_prefixes_are_taken_off_again(prefix: str, numbers: dict[str, int]) -> None:
    tensors = {name: torch.tensor(number) for name, number in numbers.items()}
    others = prefixed(prefix + "!", tensors)
    assert unprefixed(prefix, {**prefixed(prefix, tensors), **others}) == tensors


def test_generators_are_their_own() -> None:
    before = torch.random.get_rng_state()
    one, other = (torch.rand(3, generator=seeded(7)) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, torch.rand(3, generator=seeded(8)))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_one_thread_gives_the_threads_back_also_after_an_error() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError), one_thread():
            1 / (torch.get_num_threads() - 1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
