"""The command line: `nanoscout train`, `eval`, `ask`, `index`. Heavy imports wait for a verb."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

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

RunOrModel = Annotated[
    str,
    typer.Argument(metavar="RUN_OR_MODEL", help="A run's folder, a model's, or a model's name."),
]
IndexFolder = Annotated[Path, typer.Argument(metavar="INDEX_FOLDER", help="An index's folder.")]
CorpusName = Annotated[
    str,
    typer.Argument(
        metavar="CORPUS",
        help="JSONL of {id, title, text, url?}; a folder of .md, .txt, .html and .pdf files; "
        "a file of MuSiQue or HotpotQA; or world:PAGES:SEED.",
    ),
]
CorpusKind = Annotated[
    Literal["jsonl", "folder", "musique", "hotpotqa", "world"] | None,
    typer.Option(help="The corpus's kind; by default seen from its name and content."),
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


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


@app.command()
def export(
    model: RunOrModel,
    out: Annotated[Path, typer.Option(help="The folder to write; new, or empty.")],
    context: Annotated[
        int | None, typer.Option(help="Tokens to scale the model's context to (YaRN).")
    ] = None,
) -> None:
    """Write a model as an ordinary transformers folder, with a longer context if wanted."""
    from nanoscout.export import export_model

    export_model(model, out, context, Console())


@app.command()
def probe(
    model: RunOrModel,
    out: Annotated[Path, typer.Option(help="Where figures and picture go; resumed if begun.")],
    lengths: Annotated[
        str, typer.Option(help="Tokens of the conversations.")
    ] = "4096,8192,16384,32768,65536,131072",
    depths: Annotated[
        str, typer.Option(help="Where the fact stands, in percent of the results.")
    ] = "0,25,50,75,100",
    trials: Annotated[int, typer.Option(min=1, help="Conversations for each pair.")] = 4,
    with_model: Annotated[
        str, typer.Option("--model", help="With a run: the model to ask in place of its own.")
    ] = "",
) -> None:
    """Hide facts in ever longer conversations, see which ones are found, and draw a heat map."""
    from nanoscout.probe import probe_model

    probe_model(model, with_model, lengths, depths, trials, out, Console())


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(help="A run's folder.")],
    second: Annotated[Path, typer.Argument(help="Another run's folder.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of picture and figures; by default diff-FIRST-SECOND beside them."
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Where two runs' recipes differ, their results, and their curves over each other."""
    from nanoscout.diff import diff_runs

    diff_runs(first, second, out, Console(), as_json=json)


@index_app.command("serve")
def index_serve(
    folder: IndexFolder,
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


@index_app.command("build")
def index_build(
    corpus: CorpusName,
    out: Annotated[Path, typer.Option(help="The index's folder.")],
    kind: CorpusKind = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the index in the folder, once this is whole.")
    ] = False,
) -> None:
    """Index a corpus; a build that is cut off leaves what was there before."""
    from nanoscout.indexing import build_index

    build_index(corpus, out, kind, replace=replace, console=Console())


@index_app.command("add")
def index_add(folder: IndexFolder, corpus: CorpusName, kind: CorpusKind = None) -> None:
    """Add documents to an index; those whose id is there already are replaced."""
    from nanoscout.indexing import add_to_index

    add_to_index(folder, corpus, kind, Console())


@index_app.command("delete")
def index_delete(
    folder: IndexFolder, ids: Annotated[list[str], typer.Argument(metavar="ID...")]
) -> None:
    """Delete documents by their ids."""
    from nanoscout.indexing import delete_from_index

    delete_from_index(folder, ids, Console())


@index_app.command("info")
def index_info(folder: IndexFolder, json: AsJson = False) -> None:
    """How many documents an index holds, and its size."""
    from nanoscout.indexing import show_info

    show_info(folder, Console(), as_json=json)


@index_app.command("search")
def index_search(
    folder: IndexFolder,
    query: Annotated[str, typer.Argument(help="Plain words; no query has syntax.")],
    k: Annotated[int, typer.Option("-k", min=1, max=1_000, help="So many results.")] = 10,
    json: AsJson = False,
) -> None:
    """Search an index."""
    from nanoscout.indexing import show_search

    show_search(folder, query, k, Console(), as_json=json)


@index_app.command("visit")
def index_visit(
    folder: IndexFolder,
    url: Annotated[str, typer.Argument(help="A URL that a search shows.")],
    offset: Annotated[int, typer.Option(min=0, help="Characters to leave out.")] = 0,
    chars: Annotated[int, typer.Option(min=1, help="Characters to show.")] = 10_000,
) -> None:
    """Read a document of an index."""
    from nanoscout.indexing import show_page

    show_page(folder, url, offset, chars, Console())


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
        print(
            "nanoscout: stopped; train goes on with the same command and --resume", file=sys.stderr
        )
        sys.exit(130)
