"""The pages name what the code has. Their Python examples run as doctests."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from carma import Decision
from carma.classifiers.neural import ClassifierSettings
from carma.models.anm import AdditiveNoiseSettings
from carma.models.flow import FlowSettings
from carma.models.mixed import MixedSettings
from carma.problem import Problem
from carma.recourse.carma_settings import CarmaSettings
from carma.recourse.published import PublishedSettings
from carma.recourse.status import Status
from carma.rules import ActionRules, SumLimit, TimeLink
from carma.schema import Feature, Schema
from carma.training import TrainingSettings

CHECKOUT = Path(__file__).parents[1]
PROBLEM_FILE = (CHECKOUT / "docs" / "problem-file.md").read_text(encoding="utf-8")


def _example() -> str:
    found = re.search(r"```toml\n(.*?)```", PROBLEM_FILE, re.DOTALL)
    assert found is not None
    return found[1]


def _documented() -> set[str]:
    """Every key in the first column of a table."""
    cells = re.findall(r"^\| (`[^|]*) \|", PROBLEM_FILE, re.MULTILINE)
    return {key for cell in cells for key in re.findall(r"`(\w+)`", cell)}


def test_the_complete_example_is_read_whole() -> None:
    problem = Problem.from_toml(_example())
    assert problem.schema.names == (
        "job",
        "age",
        "income",
        "savings",
        "has_guarantor",
        "income_band",
    )
    assert problem.schema.actionable == ("income", "savings")
    assert problem.schema.graph.parents("income") == ("job", "age")
    assert problem.schema.rules == ActionRules(requires=[("savings", "income")])
    assert problem.schema["savings"].moves == (("none", "some"), ("some", "plenty", 1.5))
    assert problem.data == Path("people.csv")
    assert problem.classifier.hidden == (16,)
    assert problem.solver.training.batch_size == 128
    assert Schema.from_toml(problem.schema.to_toml()) == problem.schema


def test_the_complete_example_shows_every_key_of_a_feature() -> None:
    text = _example()
    for entry in fields(Feature):
        if entry.name != "name":
            assert re.search(rf"^{entry.name} = ", text, re.MULTILINE), entry.name


@pytest.mark.parametrize(
    "part",
    [
        Feature,
        ActionRules,
        SumLimit,
        TimeLink,
        AdditiveNoiseSettings,
        ClassifierSettings,
        FlowSettings,
        MixedSettings,
        CarmaSettings,
        PublishedSettings,
        TrainingSettings,
        Schema,
        Decision,
    ],
)
def test_every_key_is_documented(part: Any) -> None:
    elsewhere = {"name", "training", "features", "graph", "rules"}
    assert {entry.name for entry in fields(part)} - elsewhere <= _documented()


def test_every_status_is_documented() -> None:
    concepts = (CHECKOUT / "docs" / "concepts.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (yes|no) \|", concepts, re.MULTILINE))
    assert rows == {s.value: "yes" if s.has_plan else "no" for s in Status}


def test_links_between_pages_lead_somewhere() -> None:
    pages = [*(CHECKOUT / "docs").glob("*.md"), *CHECKOUT.glob("*.md")]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"`((?:docs|examples|scripts)/[\w./-]+)`", text):
            assert (CHECKOUT / name).exists(), f"{page.name} names {name}"
