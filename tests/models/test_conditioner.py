"""Linear, quadratic and network mechanisms of several members, computed together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from carma.models.conditioner import EVERY, OTHERS, Conditioner

# Two roots; a node with two causes, and one with three.
ADJACENCY = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]).bool()
OWNERS = (0, 1, 2, 3)


def conditioner(n_members: int = 3, owners: tuple[int, ...] = OWNERS) -> Conditioner:
    torch.manual_seed(0)
    found = Conditioner(
        ADJACENCY, 2, (5,), has_skip=True, n_members=n_members, owners=owners
    ).double()
    with torch.no_grad():
        found.last.normal_()
        found.skip.normal_()
    found.freeze()
    return found


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, 4, generator=torch.Generator().manual_seed(1)).double()


def test_members_that_chose_differently_are_each_as_if_alone() -> None:
    model = conditioner()
    x = rows(7)
    networks = model(x, range(2), EVERY)
    constant, slopes = torch.tensor([0.5, -1.0]).double(), torch.arange(1.0, 10.0).double()
    model.simplify(0, 0, constant, torch.tensor([1.0, 2.0, 0.0, 0.0, 0.0]).double())
    model.simplify(1, 0, constant, slopes[:5])
    model.simplify(2, 1, constant, slopes)
    assert model.choices.tolist() == [[0, 3], [1, 3], [3, 1]]
    found = model(x, range(2), EVERY)
    a, b, c = x[:, 0], x[:, 1], x[:, 2]
    linear = 0.5 + a + 2 * b
    quadratic = linear + 3 * a * a + 4 * a * b + 5 * b * b
    most = 0.5 + a + 2 * b + 3 * c + 4 * a * a + 5 * a * b + 6 * a * c
    most = most + 7 * b * b + 8 * b * c + 9 * c * c
    for member, node, expected in ((0, 0, linear), (1, 0, quadratic), (2, 1, most)):
        torch.testing.assert_close(found[member, :, node, 0], expected)
        torch.testing.assert_close(found[member, :, node, 1], torch.full((7,), -1.0).double())
    for member, node in ((0, 1), (1, 1), (2, 0)):
        torch.testing.assert_close(found[member, :, node], networks[member, :, node])
    # Rows of each member's own, one node, fewer members.
    each = rows(2, 7)
    others = model(each, [1], OTHERS)
    for member in (1, 2):
        alone = model(each[member - 1], range(2), EVERY)[member, :, [1]]
        torch.testing.assert_close(others[member - 1], alone)


def test_an_additive_mechanism_moves_the_shift_by_causes_and_hidden_layer() -> None:
    model = conditioner()
    x = rows(7)
    before, hidden = model(x, range(2), EVERY), model.hidden(x, 2)
    assert hidden.shape == (2, 7, 5)
    slopes = torch.arange(1.0, 9.0).double()
    model.make_additive(2, 1, torch.tensor([0.5, -1.0]).double(), slopes)
    assert model.choices.tolist() == [[3, 3], [3, 3], [3, 2]]
    found = model(x, range(2), EVERY)
    shift = 0.5 + x[:, :3] @ slopes[:3] + hidden[1] @ slopes[3:]
    torch.testing.assert_close(found[2, :, 1, 0], shift)
    assert (found[2, :, 1, 1] == -1.0).all()
    assert torch.equal(found[:2], before[:2])
    assert torch.equal(found[2, :, 0], before[2, :, 0])


@pytest.mark.parametrize("rows_of_their_own", [False, True])
def test_columns_of_one_feature_share_a_network_and_members_are_each_as_if_alone(
    rows_of_their_own: bool,
) -> None:
    torch.manual_seed(0)
    # Columns 2 to 4 are one feature, 5 is another with the same cause, 6 follows.
    adjacency = torch.zeros(7, 7).bool()
    adjacency[2:6, 0], adjacency[6, 5] = True, True
    model = Conditioner(
        adjacency, 2, (4, 3), has_skip=True, n_members=3, owners=(0, 1, 2, 2, 2, 3, 4)
    ).double()
    assert [len(weight[0]) for weight in model.weights] == [3, 3]
    with torch.no_grad():
        model.last.normal_()
    model.freeze()
    x = torch.randn(3, 8, 7).double() if rows_of_their_own else torch.randn(8, 7).double()
    found = model(x, range(5), EVERY)
    for member in range(3):
        own = x[member] if rows_of_their_own else x
        active = torch.relu if member % 2 else torch.nn.functional.silu
        for node, network in enumerate((0, 0, 0, 1, 2)):
            layer = own.T
            for weight, bias in zip(model.weights, model.biases, strict=True):
                layer = active(weight[member, network] @ layer + bias[member, network])
            expected = (model.last[member, node] @ layer).T
            torch.testing.assert_close(found[member, :, node], expected)
            some = model(x, [node], EVERY)
            torch.testing.assert_close(some[member, :, 0], expected)
    torch.testing.assert_close(model(x, [1, 3], EVERY), found[:, :, [1, 3]])


@pytest.mark.parametrize("rows_of_their_own", [False, True])
def test_columns_that_nothing_depends_on_are_left_out(rows_of_their_own: bool) -> None:
    torch.manual_seed(0)
    # Columns 0, 3 and 9 are causes of the last two, one of the other.
    adjacency = torch.zeros(14, 14).bool()
    adjacency[12, [0, 3, 9]], adjacency[13, [3, 12]] = True, True
    model = Conditioner(adjacency, 2, (4,), has_skip=True, n_members=3, owners=range(14)).double()
    with torch.no_grad():
        model.last.normal_()
        model.skip.normal_()
    x = torch.randn(3, 8, 14).double() if rows_of_their_own else torch.randn(8, 14).double()
    assert model.columns([0], EVERY) is None
    loose = model(x, [0, 1], EVERY)
    model.freeze()
    for chosen, expected in (([0], [0, 3, 9]), ([1], [3, 12]), ([0, 1], [0, 3, 9, 12])):
        columns = model.columns(chosen, EVERY)
        assert columns is not None
        assert columns.tolist() == expected
        torch.testing.assert_close(model(x, chosen, EVERY), loose[:, :, chosen])
        across = model.across(x[..., columns].mT, chosen, EVERY, 1)
        torch.testing.assert_close(across[:, :, 0].mT, loose[:, :, chosen, 0])
    # Products find their columns among those that are left.
    slopes = torch.arange(1.0, 10.0).double()
    model.simplify(1, 0, torch.zeros(2).double(), slopes)
    a, b, c = x[1].T[[0, 3, 9]] if rows_of_their_own else x.T[[0, 3, 9]]
    expected = a + 2 * b + 3 * c + 4 * a * a + 5 * a * b + 6 * a * c + 7 * b * b + 8 * b * c
    torch.testing.assert_close(model(x, [0], EVERY)[1, :, 0, 0], expected + 9 * c * c)


def test_nobody_has_no_parameters() -> None:
    assert conditioner()(rows(0), range(2), EVERY).shape == (3, 0, 2, 2)


def test_products_are_computed_only_where_a_member_has_chosen_them() -> None:
    model = conditioner()
    alone, others = slice(0, 1, 2), slice(1, None, 2)
    assert model._networks([0, 1], others).pairs is None
    model.simplify(1, 0, torch.zeros(2), torch.tensor([1.0, 2.0, 0.0, 3.0, 0.0]))
    model.simplify(0, 0, torch.zeros(2), torch.tensor([1.0, 2.0, 0.0, 0.0, 0.0]))
    assert model._networks([0, 1], alone).pairs is None
    assert model._networks([1], others).pairs is None
    pairs = model._networks([0], others).pairs
    assert pairs is not None
    assert pairs.tolist() == [[0], [1]]


@pytest.mark.parametrize(
    ("owners", "expected"),
    [
        (OWNERS, [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]),
        # Columns of one nominal feature have no product with each other.
        ((0, 0, 1, 2), [(0, 0), (0, 2), (1, 1), (1, 2), (2, 2)]),
    ],
)
def test_which_causes_have_products(
    owners: tuple[int, ...], expected: list[tuple[int, int]]
) -> None:
    model = conditioner(owners=owners)
    assert list(zip(*model.products[1].tolist(), strict=True)) == expected
    x = rows(6)
    products = torch.stack([x[:, i] * x[:, j] for i, j in expected], dim=1)
    torch.testing.assert_close(model.features(x, 1), torch.cat([x[:, :3], products], dim=1))


def test_the_square_of_a_column_with_two_values_is_left_out() -> None:
    x = rows(6)
    x[:, 0] = torch.tensor([-0.5, 2.0, 2.0, -0.5, -0.5, 2.0]).double()
    found = conditioner().features(x, 0)
    assert not found[:, 2].any()
    torch.testing.assert_close(found[:, 3], x[:, 0] * x[:, 1])


def test_a_node_with_many_causes_has_no_products() -> None:
    for n_causes, n_products in ((8, 36), (9, 0)):
        adjacency = torch.zeros(n_causes + 1, n_causes + 1, dtype=torch.bool)
        adjacency[-1, :-1] = True
        model = Conditioner(
            adjacency, 2, (4,), has_skip=True, n_members=1, owners=range(n_causes + 1)
        )
        assert model.products[0].shape == (2, n_products)
        assert model.features(torch.randn(3, n_causes + 1), 0).shape == (3, n_causes + n_products)
