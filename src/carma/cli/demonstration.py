"""The whole job in one run, on the paper's Loan set or on the caller's table."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from carma import bundle as bundles
from carma.benchmarks import load
from carma.classifiers.neural import fit_classifier
from carma.cli.jobs import Report, data_path, fit_problem
from carma.errors import InputError
from carma.evaluation.metrics import evaluate
from carma.files import check_writable, read_table, write_table
from carma.models.scm import StructuralCausalModel
from carma.problem import Problem
from carma.recourse.base import Solver
from carma.recourse.result import RecourseResult
from carma.report.changes import plot_changes
from carma.report.style import save_figure
from carma.report.text import counts_table, metrics_table

__all__ = ["run"]


def run(
    problem: Path | None, data: Path | None, out: Path, seed: int | None, *, progress: bool | None
) -> Report:
    """Fit, recommend, evaluate, explain and plot; write everything to a folder."""
    solver: Solver
    start = time.perf_counter()
    if problem is None and data is not None:
        rule = "be given with --data: it says what the columns mean ('carma init' drafts one)"
        raise InputError.of("carma demo", "--problem", rule, None)
    out.mkdir(parents=True, exist_ok=True)
    for name in ("bundle.carma", "plans.csv", "changes.png"):
        check_writable(out / name)
    if problem is None:
        chosen = seed or 0
        solver, result, scm = _loan(chosen, progress)
        title = "Loan: what plans change"
    else:
        solver, result, chosen = _own(problem, data, seed, progress)
        scm, title = None, f"{problem.stem}: what plans change"
    metrics = evaluate(result, solver.cost, true_model=scm, classifier=solver.classifier)
    bundles.save(solver, out / "bundle.carma", metrics=metrics.to_dict(), seed=chosen)
    write_table(result.to_frame(), out / "plans.csv", index=True)
    parts: list[Any] = [counts_table(result.counts()), metrics_table(metrics)]
    with_plan = result.plans.mask.any(dim=1).nonzero()
    if len(with_plan):
        save_figure(plot_changes(result, title=title), out / "changes.png")
        parts.append(result.explain(int(with_plan[0])))
    seconds = time.perf_counter() - start
    parts.append(f"Wrote {out}/bundle.carma, plans.csv and changes.png in {seconds:.0f} s.")
    content = {"metrics": metrics.to_dict(), "statuses": result.counts(), "seconds": seconds}
    return Report({**content, "out": str(out)}, parts)


def _loan(seed: int, progress: bool | None) -> tuple[Solver, RecourseResult, StructuralCausalModel]:
    data = load("loan", seed=seed)
    problem = Problem(data.schema, classifier=data.classifier_settings).with_seed(seed)
    classifier = fit_classifier(
        data.schema, data.frame("classifier"), problem.classifier, progress=progress
    )
    model = problem.new_causal_model().fit(data.frame("causal"), progress=progress)
    solver = problem.new_solver(model, classifier, data.cost)
    solver.fit(data.frame("recourse"), progress=progress)
    return solver, solver.recommend(data.frame("recourse", "test")), data.scm


def _own(
    path: Path, data: Path | None, seed: int | None, progress: bool | None
) -> tuple[Solver, RecourseResult, int]:
    problem = Problem.from_toml(path).with_seed(seed)
    table = read_table(data_path(problem, data, "carma demo"))
    solver, held_out = fit_problem(problem, table, progress=progress)
    return solver, solver.recommend(held_out), problem.seed
