"""The command line: `nanoscout train`, `eval`, `ask`, `index`. Heavy imports wait for a verb."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nanoscout.errors import UserError
from nanoscout.recipe import load_recipe

app = typer.Typer(
    help="Train small language models to find answers with search and read tools.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
index_app = typer.Typer(help="A search index of your own documents.", no_args_is_help=True)
app.add_typer(index_app, name="index")
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the recipe; repeatable."),
]


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe in TOML.")],
    set_: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; by default runs/NAME of the recipe.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder, if there is one.")
    ] = False,
) -> None:
    """Evaluate a model, train it as the recipe says, and evaluate it again."""
    resolved = load_recipe(recipe, set_)
    from nanoscout.run import train_run

    folder = out or Path("runs") / resolved.name
    train_run(resolved, folder, resume=resume, console=Console())


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    run: Annotated[Path, typer.Option(help="A finished run's folder.")] = Path("runs/quickstart"),
) -> None:
    """Ask a trained model; shows what it searches, what it reads, and its answer with sources."""
    from nanoscout.ask import ask_run

    ask_run(question, run, Console())


@app.command("eval")
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run's folder: its questions, tools and prompt.")],
    model: Annotated[
        str, typer.Option(help="A model folder or name; by default the run's trained model.")
    ] = "",
    questions: Annotated[
        int | None, typer.Option(min=1, help="Ask only the first so many held-out questions.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the figures as JSON.")] = None,
) -> None:
    """Ask a model a run's held-out questions and count the right answers."""
    from nanoscout.run import evaluate_run

    evaluate_run(run, model, questions, out, Console())


@index_app.command("serve")
def index_serve(
    folder: Annotated[Path, typer.Argument(metavar="INDEX_FOLDER", help="An index's folder.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but loopback needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: any free one.")] = 8080,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the index.")] = 1,
    token_env: Annotated[
        str, typer.Option(help="The environment variable with the token that clients must send.")
    ] = "NANOSCOUT_TOKEN",
) -> None:
    """Serve an index over HTTP: /search, /visit, /retrieve, /health and /metrics."""
    from nanoscout.search.http_server import serve

    serve(folder, host, port, workers, os.environ.get(token_env, "").strip())


def main() -> None:
    """Entry point: a UserError is one line on standard error and exit code 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        app()
    except UserError as error:
        print(f"nanoscout: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("nanoscout: stopped; go on with the same command and --resume", file=sys.stderr)
        sys.exit(130)
