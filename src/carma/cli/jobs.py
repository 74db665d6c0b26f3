"""What the commands do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w
import torch

from carma import bundle as bundles
from carma.draft import draft_schema, draft_toml
from carma.errors import FileError, InputError
from carma.evaluation.metrics import Metrics, evaluate
from carma.files import check_writable, read_table, write_table, write_whole
from carma.problem import Problem
from carma.recourse.base import Solver
from carma.recourse.carma import Carma
from carma.recourse.result import RecourseResult
from carma.report.text import counts_table, metrics_table

__all__ = [
    "Report",
    "data_path",
    "evaluate_table",
    "explain",
    "fit",
    "fit_problem",
    "init",
    "recommend",
]


@dataclass(frozen=True)
class Report:
    """What a command found, for people (``parts``) and for programs (``content``)."""

    content: dict[str, Any]
    parts: list[Any] = field(default_factory=list)
    table: str = ""
    lines: str = ""


def init(
    people: Path,
    out: Path,
    outcome: str | None,
    favourable: str | None,
    actionable: list[str],
    immutable: list[str],
    *,
    force: bool,
) -> None:
    """Write a draft problem file."""
    if out.exists() and not force:
        raise FileError.of("carma init", "--out", "not exist yet (or pass --force)", str(out))
    check_writable(out)
    schema = draft_schema(
        read_table(people),
        outcome=outcome,
        favourable=favourable,
        actionable=actionable,
        immutable=immutable,
    )
    section = tomli_w.dumps({"data": {"path": people.resolve().as_posix()}})
    write_whole(out, f"{draft_toml(schema)}\n{section}".encode())


def fit(
    path: Path, out: Path, data: Path | None, seed: int | None, *, progress: bool | None
) -> Report:
    """Fit a problem, measure it on held-out rows, and save it."""
    problem = Problem.from_toml(path).with_seed(seed)
    check_writable(out)
    table = read_table(data_path(problem, data, "carma fit"))
    solver, held_out = fit_problem(problem, table, progress=progress)
    result = solver.recommend(held_out)
    metrics = evaluate(result, solver.cost)
    bundles.save(solver, out, metrics=metrics.to_dict(), seed=problem.seed)
    content = {"bundle": str(out), "held_out": metrics.to_dict(), "statuses": result.counts()}
    decision, said = _decision(problem, solver, held_out)
    note = f"Fitted on {len(table) - len(held_out):,} rows, measured on {len(held_out):,} others."
    if solver.causal_model.n_left_out_:
        note += f" The causal model left out {solver.causal_model.n_left_out_:,} rows with gaps."
    is_unknown = solver.causal_model.unknown_levels.tolist()
    unknown = [c for c, lacks in zip(solver.encoding.columns, is_unknown, strict=True) if lacks]
    content["unknown_levels"] = unknown
    if unknown:
        note += (
            f" Nothing was learned about {', '.join(unknown)}, which no row has: nobody is told to "
            "move there, and who is there gets no plan (unknown_level). Add rows that have them, "
            "merge them with other levels, or remove them from the schema."
        )
    fidelity, told = _fidelity(solver)
    tables = [counts_table(result.counts()), metrics_table(metrics)]
    return Report(content | decision | fidelity, [note, said, *tables, *told, f"Wrote {out}"])


def fit_problem(
    problem: Problem, table: pd.DataFrame, *, progress: bool | None
) -> tuple[Solver, pd.DataFrame]:
    """Fit all parts on most rows; return the solver and the rows held out."""
    # All that can be wrong with the table is found before the first fit.
    train, held_out = problem.split(table)
    solver = problem.new_solver(*problem.fit_parts(train, progress=progress))
    return solver.fit(train, progress=progress), held_out


def recommend(
    bundle: Path,
    people: Path,
    out: Path | None,
    constraints: Path | None,
    n_plans: int,
    problem: Path | None,
) -> Report:
    """Find plans for a table."""
    if out is not None:
        check_writable(out)
    loaded, table, result = _answers(bundle, people, problem, constraints, n_plans)
    frame = result.to_frame()
    # What the schema ignores often tells who is who.
    known = [n for n in loaded.solver.schema.ignore if n in table and n not in frame]
    for place, name in enumerate(known):
        frame.insert(place, name, table.loc[frame.index, name])
    if out is None:
        return Report({}, table=frame.to_csv(index=False), lines=result.to_json() + "\n")
    if out.suffix.lower() == ".jsonl":
        write_whole(out, (result.to_json() + "\n").encode("utf-8"))
    else:
        write_table(frame, out)
    content = {"plans": str(out), "statuses": result.counts(), "seconds": result.seconds}
    return Report(content, [counts_table(result.counts()), f"Wrote {out}"])


def explain(bundle: Path, people: Path, row: int, problem: Path | None) -> Report:
    """Tell one person's answer."""
    table = read_table(people)
    if not 0 <= row < len(table):
        raise InputError.of("carma explain", "--row", f"lie in 0 to {len(table) - 1}", row)
    result = _loaded(bundle, problem).solver.recommend(table.iloc[[row]])
    return Report(result[0].to_dict(), [result.explain(0)])


def evaluate_table(bundle: Path, people: Path, problem: Path | None) -> Report:
    """Measure a bundle on a table."""
    loaded, _, result = _answers(bundle, people, problem)
    metrics: Metrics = evaluate(result, loaded.solver.cost)
    fidelity, told = _fidelity(loaded.solver)
    content = {"metrics": metrics.to_dict(), "statuses": result.counts()} | fidelity
    return Report(content, [counts_table(result.counts()), metrics_table(metrics), *told])


def _decision(
    problem: Problem, solver: Solver, held_out: pd.DataFrame
) -> tuple[dict[str, Any], str]:
    """What decides, and the share of held-out people that it turns down."""
    with torch.no_grad():
        is_rejected = solver.classifier.rejects(solver.encoding.encode(held_out))
    share = float(is_rejected.double().mean())
    decision = solver.classifier.decision
    kind = problem.decision.calibrated if problem.decision is not None else False
    how = f", on probabilities that are calibrated ({kind})" if kind else ""
    content = asdict(decision) | {"calibrated": kind, "rejected_share": share}
    said = f"People are {decision.say()}{how}; {share:.1%} of the others are turned down."
    return {"decision": content}, said


def _fidelity(solver: Solver) -> tuple[dict[str, Any], list[str]]:
    """How well a surrogate stands in for a classifier without slopes, where there is one."""
    if not isinstance(solver, Carma) or solver.surrogate_ is None:
        return {}, []
    fidelity = solver.surrogate_.fidelity
    return {"surrogate": fidelity.to_dict()}, [str(fidelity)]


def _loaded(bundle: Path, problem: Path | None) -> bundles.Bundle:
    """Load a bundle; with the classifier that a problem file names, where it cannot hold it."""
    if problem is None:
        return bundles.load_bundle(bundle)
    job = Problem.from_toml(problem)
    if job.classifier_file is None:
        rule = "be a problem file with [classifier] path"
        raise InputError.of("carma", "--problem", rule, str(problem))
    return bundles.load_bundle(bundle, classifier=job.classifier_file.read(job.schema))


def _answers(
    bundle: Path,
    people: Path,
    problem: Path | None,
    constraints: Path | None = None,
    n_plans: int = 1,
) -> tuple[bundles.Bundle, pd.DataFrame, RecourseResult]:
    table = read_table(people)
    told = None if constraints is None else read_table(constraints)
    if told is not None and len(told) != len(table):
        rule = f"have one row a person, {len(table)}"
        raise InputError.of("carma recommend", "--constraints", rule, f"{len(told)} rows")
    loaded = _loaded(bundle, problem)
    return loaded, table, loaded.solver.recommend(table, told, n_plans)


def data_path(problem: Problem, given: Path | None, command: str) -> Path:
    """Where a command finds the rows.

    Raises:
        InputError: Neither the option nor the file says so.
    """
    path = given or problem.data
    if path is None:
        raise InputError.of(command, "--data", "be given, or [data] path in the file", None)
    return path
