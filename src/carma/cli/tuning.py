"""Tune the settings of a problem file, and write them where ``carma fit`` takes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from carma.cli.jobs import Report, data_path
from carma.errors import FileError, InputError
from carma.evaluation.trials import Tuned
from carma.evaluation.tuning import COVERAGE, tune
from carma.files import check_writable, read_table, write_whole
from carma.problem import Problem
from carma.report.text import tuning_table

__all__ = ["run"]

PICTURES = (".png", ".svg", ".pdf")


def run(
    path: Path,
    data: Path | None,
    trials: int,
    *,
    study: Path,
    out: Path,
    plot: Path | None,
    coverage: float | None,
    timeout: float | None,
    seed: int | None,
    progress: bool | None,
) -> Report:
    """Make the trials that the study lacks; write the best settings, and a picture."""
    problem = Problem.from_toml(path).with_seed(seed)
    source = data_path(problem, data, "carma tune")
    outputs = {"--study": study, "--out": out} | ({} if plot is None else {"--plot": plot})
    _check(outputs, {path, source})
    table = read_table(source)
    tuned = tune(
        replace(problem, data=source),
        table,
        trials=trials,
        study=study,
        coverage=COVERAGE if coverage is None else coverage,
        timeout=timeout,
        progress=progress,
    )
    best = tuned.best
    reached = f"cost x 100 {best.cost_x100:.3f}, coverage {best.coverage:.2f} %"
    note = f"# Written by carma tune: trial {best.number}, {reached} on validation people.\n"
    write_whole(out, (note + tuned.best_problem.to_toml(out)).encode("utf-8"))
    if plot is not None:
        from carma.report.front import plot_front
        from carma.report.style import save_figure

        save_figure(plot_front(tuned, title=f"{path.stem}: trials of carma tune"), plot)
    content = {
        "out": str(out),
        "study": str(study),
        "n_people": tuned.n_people,
        "least_coverage": tuned.least_coverage,
        "best": best.to_dict(),
        "saving_percent": tuned.saving,
        "front": [trial.to_dict() for trial in tuned.front],
        "trials": [trial.to_dict() for trial in tuned.trials],
        "failures": [{"number": n, "error": e} for n, e in tuned.failures.items()],
    }
    parts: list[Any] = [tuning_table(tuned), _rule(tuned)]
    parts += [f"Trial {n} failed: {error}" for n, error in tuned.failures.items()]
    wrote = f"Wrote {out}" + ("" if plot is None else f" and {plot}")
    return Report(content, [*parts, f"{wrote}; {study} holds the study."])


def _rule(tuned: Tuned) -> str:
    best = tuned.best
    what = "the settings as given" if best.number == 0 else f"trial {best.number}"
    few = tuned.least_coverage < tuned.coverage
    most = f"the most that any reaches ({tuned.coverage:g} % was asked for)"
    least = most if few else f"at least {tuned.coverage:g} %"
    rule = f"Chosen: {what}, the cheapest that covers {least}."
    if best.number == 0 or tuned.saving is None:
        return rule
    return f"{rule} It costs {tuned.saving:.2f} % less than the settings as given."


def _check(outputs: dict[str, Path], inputs: set[Path]) -> None:
    """Refuse outputs that cannot be written, or that would replace something else."""
    taken = {path.resolve() for path in inputs}
    for option, path in outputs.items():
        check_writable(path)
        if path.resolve() in taken:
            rule = "be a file of its own, not one that another argument names"
            raise FileError.of("carma tune", option, rule, str(path))
        taken.add(path.resolve())
    plot = outputs.get("--plot")
    if plot is None:
        return
    if plot.suffix.lower() not in PICTURES:
        raise FileError.of("carma tune", "--plot", f"end in {', '.join(PICTURES)}", str(plot))
    try:
        import carma.report.front  # noqa: F401
    except ModuleNotFoundError as error:
        rule = "be drawn with the extra 'plots': pip install 'carma-recourse[plots]'"
        raise InputError.of("carma tune", "--plot", rule, str(plot)) from error
