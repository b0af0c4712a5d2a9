"""The verbs of `nanoscout eval`. Heavy imports wait for them."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from nanoscout.errors import UserError
from nanoscout.recipe import JudgeSpec

eval_app = typer.Typer(
    help="Ask models questions, count the right answers, compare.", no_args_is_help=True
)

Models = Annotated[
    list[str],
    typer.Argument(metavar="RUN_OR_MODEL...", help="A run's folder, a model's, or a model's name."),
]
THINKING = {"off": [False], "on": [True], "both": [False, True]}


@eval_app.command()
def run(
    models: Models,
    suite: Annotated[
        str, typer.Option(help="Which questions; without it a run's own held-out ones.")
    ] = "",
    path: Annotated[Path | None, typer.Option(help="The suite's file; for world, a run.")] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(help="native, langgraph, smolagents-code or smolagents-tools; repeatable."),
    ] = None,
    thinking: Annotated[
        Literal["off", "on", "both"], typer.Option(help="Whether the models think.")
    ] = "off",
    questions: Annotated[
        int | None, typer.Option(min=1, help="Ask only so many, a fair sample of a suite.")
    ] = None,
    search: Annotated[
        str,
        typer.Option(
            metavar="ENGINE_OR_INDEX",
            help="Search elsewhere than in the run's or the suite's own corpus: an index's folder, "
            "an MCP server (mcp+http://…), serper, tavily, brave, searxng+http://…, http://….",
        ),
    ] = "",
    closed_book: Annotated[bool, typer.Option("--closed-book", help="No search at all.")] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Even where the answers cannot be found.")
    ] = False,
    endpoint: Annotated[
        str, typer.Option(help="Of the models, if they are served already: http://…/v1.")
    ] = "",
    endpoint_key_env: Annotated[str, typer.Option(help="The variable with its key.")] = "",
    judge: Annotated[
        str, typer.Option(help="Grade by a language model at this endpoint: http://…/v1.")
    ] = "",
    judge_model: Annotated[str, typer.Option(help="Its name there.")] = "",
    judge_key_env: Annotated[str, typer.Option(help="The variable with its key.")] = "",
    greedy: Annotated[
        bool, typer.Option("--greedy", help="The likeliest token always; else sampled.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the choice of questions, and of sampling.")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, help="Conversations at a time.")] = 16,
    model: Annotated[
        str, typer.Option(help="Without --suite: ask this model in place of the run's own.")
    ] = "",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the run's recipe."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder of answers and figures, by default evaluations/SUITE, gone on with if "
            "begun; without --suite, a JSON file of figures."
        ),
    ] = None,
) -> None:
    """Ask models a suite's questions, or a run's held-out ones, and count the right answers."""
    overrides = set_ or []
    if not suite:
        given = [path, agent, thinking != "off", closed_book, anyway, endpoint, judge, greedy, seed]
        if len(models) > 1 or any(given):
            raise UserError("name the questions with --suite; only RUN alone has its own")
        from nanoscout.run import evaluate_run

        engine = [f"search.engine={search}"] if search else []
        evaluate_run(Path(models[0]), model, questions, out, Console(), [*overrides, *engine])
        return
    if model:
        raise UserError("--model is for a run's own questions; name the model beside the run")
    if bool(judge) != bool(judge_model):
        raise UserError("--judge and --judge-model belong together")
    from nanoscout.eval_plan import Wanted
    from nanoscout.evaluating import evaluate_suite

    wanted = Wanted(
        models=models,
        suite=suite,
        path=path,
        agents=list(dict.fromkeys(agent or ["native"])),
        thinking=THINKING[thinking],
        questions=questions,
        search=search,
        closed_book=closed_book,
        anyway=anyway,
        endpoint=endpoint,
        endpoint_key_env=endpoint_key_env,
        judge=JudgeSpec(url=judge, model=judge_model, api_key_env=judge_key_env) if judge else None,
        greedy=greedy,
        seed=seed,
        concurrency=concurrency,
        overrides=overrides,
        out=out,
    )
    evaluate_suite(wanted, Console())


@eval_app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A cell's folder, or a folder with one cell.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Two of them on the questions that both were asked: which is better, how surely, and where."""
    from nanoscout.comparing import compare_cells

    compare_cells(first, second, Console(), as_json=json)


@eval_app.command()
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Of eval run --suite.")
    ],
    out: Annotated[Path, typer.Option(help="The report to write: NAME.md or NAME.html.")],
    examples: Annotated[
        int,
        typer.Option(min=0, help="Conversations of each kind (right, wrong, no answer) a cell."),
    ] = 0,
) -> None:
    """Write up results: model x agent x thinking, with intervals, cost and a picture."""
    from nanoscout.reporting import write_report

    write_report(folders, out, examples, Console())
