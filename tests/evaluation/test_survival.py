"""What a file of plans says is what was planned."""

from __future__ import annotations

import math

import pandas as pd
import torch
from torch import Tensor

from carma import CausalGraph, Feature, Intervention, RecourseResult, Schema, Status
from carma.classifiers.network import Input, NetworkClassifier
from carma.decision import Decision
from carma.evaluation.survival import accepted, reread
from carma.models.scm import StructuralCausalModel, linear
from carma.recourse.plans import Plans
from carma.table import Encoding

SCHEMA = Schema(
    (
        Feature("home", "nominal", levels=("None", "rent", "1"), role="immutable"),
        Feature("income", role="actionable"),
        Feature("member", "binary", levels=(False, True), role="actionable"),
        Feature("loans", "integer", bounds=(0, 9), role="actionable"),
        Feature("savings"),
    ),
    CausalGraph.from_parents(
        {"savings": ["income"]}, ["home", "income", "member", "loans", "savings"]
    ),
)
PEOPLE = pd.DataFrame(
    {
        "home": ["None", "rent", "1"],
        "income": [1 / 3, 2.0, 3.0],
        "member": [False, True, False],
        "loans": [1, 2, 3],
        "savings": [0.1, 0.2, 0.3],
    },
    index=["a, b", "c", "d"],
)


def result(mask: Tensor, values: Tensor) -> RecourseResult:
    encoding = Encoding(SCHEMA)
    x = encoding.encode(PEOPLE)
    plans = Plans.nothing_to_do(x, torch.full((len(x),), 0.2, dtype=torch.float64))
    has_plan = mask.any(dim=1)
    plans.status[has_plan] = Status.SEARCHED.code
    plans.status[~has_plan] = Status.NOT_FOUND.code
    plans.mask[:], plans.values[:] = mask, torch.where(mask, values, x)
    plans.counterfactual[:] = plans.values
    return RecourseResult(encoding, x, plans, PEOPLE.index, Decision(threshold=0.5), 1.0)


def test_a_file_says_what_was_planned_to_the_last_digit() -> None:
    encoding = Encoding(SCHEMA)
    x = encoding.encode(PEOPLE)
    mask = torch.zeros_like(x, dtype=torch.bool)
    mask[0, encoding.column("income")] = mask[0, encoding.column("loans")] = True
    mask[1, encoding.column("member")] = True
    values = x.clone()
    values[:, encoding.column("income")] = math.pi
    values[:, encoding.column("loans")] = 7.0
    values[:, encoding.column("member")] = 0.0
    again, do = reread(result(mask, values))
    assert torch.equal(again, x)
    assert torch.equal(do.mask, mask)
    assert torch.equal(do.values[mask], values[mask])


def test_without_any_plan_nothing_is_set() -> None:
    x = Encoding(SCHEMA).encode(PEOPLE)
    nothing = torch.zeros_like(x, dtype=torch.bool)
    again, do = reread(result(nothing, x))
    assert torch.equal(again, x)
    assert not do.mask.any()


def test_accepted_asks_about_what_follows_too() -> None:
    schema = Schema(
        (Feature("income", role="actionable"), Feature("savings")),
        CausalGraph.from_edges([("income", "savings")]),
    )
    noise = torch.distributions.Normal(0.0, 1.0)
    equations = {"income": linear({}, noise), "savings": linear({"income": 0.5}, noise)}
    scm = StructuralCausalModel(schema, equations)
    layers = [torch.tensor([[0.0, 1.0]])], [torch.tensor([-1.0])]
    classifier = NetworkClassifier(schema, [Input(0), Input(1)], *layers)
    x = torch.zeros(2, 2, dtype=torch.float64)
    mask = torch.tensor([[True, False], [True, False]])
    do = Intervention(mask, torch.tensor([[2.1, 0.0], [1.9, 0.0]], dtype=torch.float64))
    assert accepted(x, do, scm, classifier).tolist() == [True, False]
