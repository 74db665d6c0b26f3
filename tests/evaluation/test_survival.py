"""What a file of plans says is what was planned."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from carma import CausalGraph, Feature, Intervention, RecourseResult, Schema, Status
from carma.classifiers.black_box import BlackBoxClassifier
from carma.classifiers.network import Input, NetworkClassifier
from carma.decision import Decision
from carma.evaluation.survival import accepted, reread
from carma.models.scm import StructuralCausalModel, linear
from carma.recourse.plans import Plans
from carma.rules import ActionRules, TimeLink
from carma.schema import Missing
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


def result(
    mask: Tensor, values: Tensor, schema: Schema = SCHEMA, missing: Tensor | None = None
) -> RecourseResult:
    encoding = Encoding(schema)
    x = encoding.encode(PEOPLE)
    plans = Plans.nothing_to_do(x, torch.full((len(x),), 0.2, dtype=torch.float64))
    has_plan = mask.any(dim=1)
    plans.status[has_plan] = Status.SEARCHED.code
    plans.status[~has_plan] = Status.NOT_FOUND.code
    plans.mask[:], plans.values[:] = mask, torch.where(mask, values, x)
    plans.counterfactual[:] = plans.values
    decision = Decision(threshold=0.5)
    return RecourseResult(encoding, x, plans, PEOPLE.index, decision, 1.0, missing=missing)


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


def test_gaps_and_moves_between_levels_come_back_from_a_file() -> None:
    features = tuple(
        replace(f, missing="impute", role="actionable" if f.name == "home" else f.role)
        for f in SCHEMA.features
    )
    schema = replace(SCHEMA, features=features)
    encoding = Encoding(schema)
    x = encoding.encode(PEOPLE)
    missing, mask = (torch.zeros_like(x, dtype=torch.bool) for _ in range(2))
    for row, names in ((0, ("home", "loans")), (1, ("member", "savings")), (2, ("income",))):
        for name in names:
            missing[row, encoding.block(name)] = True
    values = x.clone()
    mask[:2, encoding.block("home")] = True
    values[:, encoding.block("home")] = encoding.at_level(schema["home"], 2)
    again, do = reread(result(mask, values, schema, missing))
    assert torch.equal(again.isnan(), missing)
    assert torch.equal(again[~missing], x[~missing])
    assert torch.equal(do.mask, mask)
    assert torch.equal(do.values[mask], values[mask])


def _world(missing: Missing) -> StructuralCausalModel:
    """Schooling takes two years a step; savings are what one earns, which is all that counts."""
    schema = Schema(
        (
            Feature("school", role="actionable"),
            Feature("age"),
            Feature("savings", missing=missing),
        ),
        CausalGraph.from_edges([("age", "savings")], ["school", "age", "savings"]),
        rules=ActionRules(time=(TimeLink("school", "age", 2),)),
    )
    noise = torch.distributions.Normal(0.0, 1.0)
    equations = {name: linear({}, noise) for name in ("school", "age")}
    return StructuralCausalModel(schema, equations | {"savings": linear({"age": 0.5}, noise)})


def test_accepted_lets_time_pass() -> None:
    scm = _world("impute")
    layers = [torch.tensor([[0.0, 1.0]])], [torch.tensor([-1.0])]
    classifier = NetworkClassifier(scm.schema, [Input(0), Input(2)], *layers)
    x = torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.0, torch.nan]], dtype=torch.float64)
    mask = torch.tensor([[True, False, False]] * 2)
    for school, expected in ((0.4, [False, False]), (0.6, [True, False]), (1.1, [True, True])):
        do = Intervention(mask, torch.full_like(x, school))
        assert accepted(x, do, scm, classifier).tolist() == expected, school
    # Nothing is set where nothing is asked for.
    assert accepted(x[:1] + 1, Intervention.none(x[:1]), scm, classifier).tolist() == [True]


def test_accepted_shows_the_gaps_that_a_classifier_is_to_see() -> None:
    scm = _world("pass")
    ask = BlackBoxClassifier(scm.schema, lambda rows: 0.1 + 0.8 * rows["savings"].isna())
    x = torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.0, torch.nan]], dtype=torch.float64)
    assert accepted(x, Intervention.none(x), scm, ask).tolist() == [False, True]
    sets = Intervention(torch.tensor([[False, False, True]] * 2), torch.zeros_like(x))
    assert accepted(x, sets, scm, ask).tolist() == [False, False]


def test_accepted_keeps_to_a_band() -> None:
    scm = _world("impute")
    layers = [torch.tensor([[1.0]])], [torch.tensor([0.0])]
    classifier = NetworkClassifier(scm.schema, [Input(2)], *layers)
    band = classifier.deciding(Decision(at_least=0.5, at_most=0.7))
    x = torch.tensor([[0.0, 0.0, v] for v in (-0.5, 0.5, 1.5)], dtype=torch.float64)
    assert accepted(x, Intervention.none(x), scm, band).tolist() == [False, True, False]
