"""Commands and their options. The work is in ``jobs``, imported only when a command runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand

from carma.errors import CarmaError, InputError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Causal algorithmic recourse: what would a person have to change, and what follows?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

# What typer makes of Ctrl-C.
INTERRUPTED = 130

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no report.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Seed = Annotated[
    int | None, typer.Option(min=0, help="Of every random draw; overrules the problem file.")
]
BundleFile = Annotated[Path, typer.Argument(help="Written by 'carma fit'.")]
ProblemFile = Annotated[
    Path | None,
    typer.Option(
        "--problem",
        help="Problem file whose [classifier] path decides, where the bundle cannot hold it.",
    ),
]
People = Annotated[Path, typer.Argument(help="Table: .csv, .parquet or .jsonl.")]

# Options of 'carma benchmark' that take several words.
LISTS = ("--datasets", "--methods", "--classifier")


class ListsCommand(TyperCommand):
    """Takes ``--datasets a b`` for ``--datasets a --datasets b``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the option before each further word."""
        words, option, is_first = list[str](), "", False
        for word in args:
            if word.startswith("-"):
                option, is_first = word if word in LISTS else "", True
            elif option and not is_first:
                words.append(option)
            else:
                is_first = False
            words.append(word)
        return super().parse_args(ctx, words)


@app.command()
def init(
    people: People,
    out: Annotated[Path, typer.Option(help="Problem file to write.")] = Path("problem.toml"),
    outcome: Annotated[str | None, typer.Option(help="Column with the decision.")] = None,
    favourable: Annotated[str | None, typer.Option(help="Its value people hope for.")] = None,
    actionable: Annotated[
        list[str] | None, typer.Option(help="Feature that plans may set; repeat it.")
    ] = None,
    immutable: Annotated[
        list[str] | None, typer.Option(help="Feature that never moves; repeat it.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    quiet: Quiet = False,
) -> None:
    """Write a first draft of a problem file from a table, to edit."""
    from carma.cli import jobs

    jobs.init(people, out, outcome, favourable, actionable or [], immutable or [], force=force)
    if not quiet:
        _say(f"Wrote {out}. Add the causal graph and the roles, then: carma fit {out}")


@app.command()
def fit(
    problem: Annotated[Path, typer.Argument(help="Problem file (TOML).")],
    out: Annotated[Path, typer.Option(help="Bundle to write.")] = Path("bundle.carma"),
    data: Annotated[Path | None, typer.Option(help="Table; overrules [data] path.")] = None,
    seed: Seed = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Fit classifier, causal model and CARMA; write one bundle."""
    from carma.cli import jobs

    report = jobs.fit(problem, out, data, seed, progress=_progress(quiet or as_json))
    _show(report, as_json=as_json, quiet=quiet)


@app.command()
def recommend(
    bundle: BundleFile,
    people: People,
    out: Annotated[
        Path | None, typer.Option(help="Plans: .csv, .parquet or .jsonl; without it, printed.")
    ] = None,
    constraints: Annotated[
        Path | None,
        typer.Option(help="Table: what each person cannot do, one row a person, same order."),
    ] = None,
    plans: Annotated[int, typer.Option(min=1, help="Plans for each person, at most.")] = 1,
    problem: ProblemFile = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find a plan for every person of a table, or several."""
    from carma.cli import jobs

    report = jobs.recommend(bundle, people, out, constraints, plans, problem)
    if out is None:
        sys.stdout.write(report.lines if as_json else report.table)
    else:
        _show(report, as_json=as_json, quiet=quiet)


@app.command()
def explain(
    bundle: BundleFile,
    people: People,
    row: Annotated[int, typer.Option(help="Row of the table, the first is 0.")] = 0,
    problem: ProblemFile = None,
    as_json: AsJson = False,
) -> None:
    """Tell one person what to do and what follows."""
    from carma.cli import jobs

    report = jobs.explain(bundle, people, row, problem)
    _show(report, as_json=as_json, quiet=False)


@app.command()
def evaluate(
    bundle: BundleFile,
    people: People,
    problem: ProblemFile = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure coverage, cost and time on a table."""
    from carma.cli import jobs

    report = jobs.evaluate_table(bundle, people, problem)
    _show(report, as_json=as_json, quiet=quiet)


@app.command()
def demo(
    problem: Annotated[
        Path | None, typer.Option(help="Your problem file; without it, the paper's Loan set.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Your table.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for bundle, plans and picture.")] = Path(
        "demo-out"
    ),
    seed: Seed = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run the whole job: fit, recommend, evaluate, explain, plot."""
    from carma.cli import demonstration

    report = demonstration.run(problem, data, out, seed, progress=_progress(quiet or as_json))
    _show(report, as_json=as_json, quiet=quiet)


@app.command()
def tune(
    problem: Annotated[Path, typer.Argument(help="Problem file (TOML).")],
    data: Annotated[Path | None, typer.Option(help="Table; overrules [data] path.")] = None,
    trials: Annotated[int, typer.Option(min=1, help="In the whole study.")] = 50,
    study: Annotated[
        Path, typer.Option(help="Keeps the trials; run again to go on with it.")
    ] = Path("study.jsonl"),
    out: Annotated[Path, typer.Option(help="Problem file to write, for 'carma fit'.")] = Path(
        "tuned.toml"
    ),
    plot: Annotated[
        Path | None, typer.Option(help="Picture of cost and coverage: .png, .svg or .pdf.")
    ] = None,
    coverage: Annotated[
        float | None, typer.Option(help="Percent of people to cover; without it, 99.9.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds after which no new trial is begun.")
    ] = None,
    seed: Seed = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Search for settings of the solver: cost down, coverage up; resumable."""
    from carma.cli import tuning

    report = tuning.run(
        problem,
        data,
        trials,
        study=study,
        out=out,
        plot=plot,
        coverage=coverage,
        timeout=timeout,
        seed=seed,
        progress=_progress(quiet or as_json),
    )
    _show(report, as_json=as_json, quiet=quiet)


@app.command(cls=ListsCommand)
def benchmark(
    datasets: Annotated[
        list[str] | None,
        typer.Option(help="Benchmark sets, or real tables; without it, the paper's seven."),
    ] = None,
    methods: Annotated[list[str] | None, typer.Option(help="Methods; without it, all.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0, 1, ... so many.")] = 1,
    people: Annotated[int, typer.Option(min=1, help="Rejected people of each set at most.")] = 500,
    margin: Annotated[
        float | None,
        typer.Option(help="How far past the threshold searches aim, as a probability."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--json", help="JSON Lines file to append to; what it holds is skipped."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of torch, while solving; without it, its own.")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(help="Rows of each part of the data; without it, the paper's.")
    ] = None,
    classifier: Annotated[
        list[str] | None,
        typer.Option(help="Of real tables: logistic, mlp (the default), lightgbm, xgboost."),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of the real tables; without it, what CARMA_DATA names."),
    ] = None,
    search_people: Annotated[
        int | None,
        typer.Option(min=1, help="Of real tables: people asked of searches; without it, 20."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Compare recourse methods: the same people, classifier, causal model and cost."""
    from carma.cli import benchmarking

    report = benchmarking.run(
        datasets,
        methods,
        seeds,
        people=people,
        margin=margin,
        rows=rows,
        out=out,
        threads=threads,
        progress=_progress(quiet),
        classifiers=classifier,
        folder=data_dir,
        search_people=search_people,
    )
    # Where nobody looks on, a table of this width is better left whole.
    _show(report, as_json=False, quiet=quiet, width=None if sys.stdout.isatty() else 300)


@app.command()
def reproduce(
    exhibits: Annotated[
        list[str] | None,
        typer.Argument(help="table1 to table7, figure1 to figure10, or all (the default)."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for results.")] = Path("reproduced"),
    seeds: Annotated[int, typer.Option(help="Seeds 0, 1, ... so many.")] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer rows and people: to see that all works.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option(help="At once; without it, one for each core.")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run the paper's tables and figures anew, beside the published numbers."""
    from carma.cli import reproduction

    is_silent = quiet or as_json
    report = reproduction.run(
        exhibits or [],
        out,
        n_seeds=seeds,
        quick=quick,
        processes=processes,
        progress=_progress(is_silent),
        announce=(lambda _: None) if is_silent else _say,
    )
    _show(report, as_json=as_json, quiet=quiet, width=None if sys.stdout.isatty() else 300)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 the job failed, 2 bad usage or input."""
    try:
        app()
    except InputError as error:
        _fail(str(error), 2)
    except CarmaError as error:
        _fail(str(error), 1)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            _fail("interrupted; nothing was left half-written", 1)
        raise


def _fail(message: str, code: int) -> None:
    Console(stderr=True, highlight=False).print("error:", message, style="red", markup=False)
    sys.exit(code)


def _progress(quiet: bool) -> bool | None:
    return False if quiet else None


def _say(text: str) -> None:
    Console(highlight=False).print(text, markup=False)


def _show(report: Any, *, as_json: bool, quiet: bool, width: int | None = None) -> None:
    if as_json:
        sys.stdout.write(json.dumps(report.content, ensure_ascii=False, default=str) + "\n")
    elif not quiet:
        console = Console(highlight=False, width=width)
        for part in report.parts:
            console.print(part, markup=False) if isinstance(part, str) else console.print(part)
