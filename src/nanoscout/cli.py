"""The command line, a function a verb. Heavy imports wait for it."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from nanoscout.errors import UserError
from nanoscout.eval_cli import eval_app
from nanoscout.recipe import RankingSpec, SearchSpec
from nanoscout.recipe_file import load_recipe

app = typer.Typer(
    help="Train small language models to find answers with search and read tools.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
index_app = typer.Typer(help="A search index of your own documents.", no_args_is_help=True)
app.add_typer(index_app, name="index")
web_app = typer.Typer(help="The open web as a model sees it.", no_args_is_help=True)
app.add_typer(web_app, name="web")
app.add_typer(eval_app, name="eval")
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the recipe; repeatable."),
]

OtherEngine = Annotated[
    str,
    typer.Option(
        "--search",
        metavar="ENGINE",
        help="Search with another engine than the run's: serper, tavily, brave, "
        "searxng+http://…, or a search server's http://….",
    ),
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
Host = Annotated[str, typer.Option(help="Address to listen on; any but loopback needs a token.")]
Port = Annotated[int, typer.Option(min=0, max=65_535, help="0: any free one.")]
TokenVariable = Annotated[
    str, typer.Option(help="The environment variable with the token that clients must send.")
]
SEARCH = SearchSpec()
RankingName = Annotated[
    Literal["lexical", "dense", "fused"],
    typer.Option(help="By words, by vectors (see index encode), or by both."),
]
EncoderName = Annotated[
    str,
    typer.Option(
        help="A sentence-transformers folder or hub name; by default the one that made the vectors."
    ),
]
RerankerName = Annotated[
    str, typer.Option(help="A cross-encoder, folder or hub name, over the first 50 candidates.")
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
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what the run will need; loads no weights.")
    ] = False,
    memory: Annotated[
        str, typer.Option(help="With --plan: memory to plan for, e.g. 24GB; by default this one's.")
    ] = "",
    json: AsJson = False,
) -> None:
    """Evaluate a model, train it as the recipe says, and evaluate it again."""
    resolved = load_recipe(recipe, set_)
    if plan:
        from nanoscout.planning.report import show_plan

        show_plan(resolved, memory, Console(), as_json=json)
        return
    if memory or json:
        raise UserError("--memory and --json go with --plan")
    from nanoscout.run import train_run

    folder = out or Path("runs") / resolved.name
    train_run(resolved, folder, resume=resume, console=Console())


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    run: Annotated[Path, typer.Option(help="A finished run's folder.")] = Path("runs/quickstart"),
    search: OtherEngine = "",
    set_: Overrides = None,
) -> None:
    """Ask a trained model; shows what it searches, what it reads, and its answer with sources."""
    from nanoscout.ask import ask_run

    ask_run(question, run, Console(), _overrides(set_, search))


def _overrides(given: list[str] | None, search: str) -> list[str]:
    return [*(given or []), *([f"search.engine={search}"] if search else [])]


@web_app.command("search")
def web_search(
    query: Annotated[str, typer.Argument(help="Plain words.")],
    engine: Annotated[
        str, typer.Option(help="serper, tavily or brave, or searxng+http://…, your own SearXNG.")
    ],
    k: Annotated[int, typer.Option("-k", min=1, max=50, help="So many results.")] = 10,
    page: Annotated[int, typer.Option(min=1, help="Which page of them.")] = 1,
) -> None:
    """Search the web with one of the engines: whether its key works, and what it finds."""
    from nanoscout.browsing import show_results

    show_results(query, engine, k, page, Console())


@web_app.command("visit")
def web_visit(
    url: Annotated[str, typer.Argument(help="A page's address.")],
    offset: Annotated[int, typer.Option(min=0, help="Characters to leave out.")] = 0,
    chars: Annotated[int, typer.Option(min=1, help="Characters to show.")] = 10_000,
) -> None:
    """Read a page of the web as a model would."""
    from nanoscout.browsing import show_web_page

    show_web_page(url, offset, chars, Console())


@app.command()
def mcp(
    folder: IndexFolder,
    http: Annotated[
        bool, typer.Option("--http", help="Over streamable HTTP, not standard input and output.")
    ] = False,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    token_env: TokenVariable = "NANOSCOUT_TOKEN",
    profile: Annotated[
        Literal["nanoscout", "jan"],
        typer.Option(help="The tools' names: web_search and visit, or google_search and scrape."),
    ] = "nanoscout",
    results: Annotated[
        int, typer.Option(min=1, max=50, help="Hits that a search shows.")
    ] = SEARCH.results,
    preview: Annotated[
        Literal["first", "window"],
        typer.Option(help="Of a hit's page: its beginning, or a window around the query's words."),
    ] = SEARCH.preview,
    preview_chars: Annotated[
        int, typer.Option(min=20, max=2_000, help="Characters of a preview.")
    ] = SEARCH.preview_chars,
    page_chars: Annotated[
        int, typer.Option(min=100, max=1_000_000, help="Characters of a page that one visit shows.")
    ] = SEARCH.page_chars,
    print_config: Annotated[
        bool,
        typer.Option("--print-config", help="Print what to paste into a chat program, and end."),
    ] = False,
) -> None:
    """Serve an index over MCP, the protocol of chat programs: its search and its pages as tools."""
    from nanoscout.search import mcp_server
    from nanoscout.search.index import SearchIndex

    spec = SearchSpec(
        results=results, preview=preview, preview_chars=preview_chars, page_chars=page_chars
    )
    if not http and (host, port) != ("127.0.0.1", 8000):
        raise UserError("--host and --port are of the server over HTTP; add --http")
    index = SearchIndex.open(folder)
    token = os.environ.get(token_env, "").strip()
    if print_config and http:
        print(mcp_server.http_config(host, port, token))
    elif print_config:
        print(mcp_server.stdio_config(folder, spec, profile))
    else:
        tools = mcp_server.tools_of_index(index, spec, profile)
        what = f"{len(index)} documents"
        if http:
            mcp_server.serve_http(tools, what, host, port, token)
        else:
            mcp_server.serve_stdio(tools, what)


@app.command("serve")
def serve_model(
    model: RunOrModel,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    context: Annotated[
        int | None, typer.Option(min=256, help="Tokens of a conversation, at most.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Chats written at the same time.")] = 16,
    idle: Annotated[
        int, typer.Option(min=0, help="Chats whose cache is kept for their next turn.")
    ] = 16,
    with_model: Annotated[
        str, typer.Option("--model", help="With a run: the model to serve in place of its own.")
    ] = "",
    tools: Annotated[
        Literal["hermes", "xml"] | None,
        typer.Option(help="How a model that is no run's writes tool calls; by default hermes."),
    ] = None,
    thinking: Annotated[
        bool, typer.Option(help="Let it think, where a chat says nothing.")
    ] = False,
    token_env: TokenVariable = "NANOSCOUT_TOKEN",
) -> None:
    """Serve a model to clients of OpenAI's interface: chats, tools, streams."""
    from nanoscout.recipe import DialogueSpec
    from nanoscout.serving.opening import open_chat_model
    from nanoscout.serving.server import serve

    form = None
    if tools or thinking:
        form = DialogueSpec(format=tools or "hermes", thinking=thinking, several_calls=True)
    opened = open_chat_model(
        model, form, model=with_model, context=context, concurrency=concurrency, idle=idle
    )
    serve(opened, host, port, os.environ.get(token_env, "").strip())


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
    host: Host = "127.0.0.1",
    port: Port = 8080,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the index.")] = 1,
    token_env: TokenVariable = "NANOSCOUT_TOKEN",
    ranking: RankingName = "lexical",
    encoder: EncoderName = "",
    reranker: RerankerName = "",
) -> None:
    """Serve an index over HTTP: /search, /visit, /retrieve, /health and /metrics."""
    from nanoscout.search.http_server import serve

    spec = RankingSpec(ranking=ranking, encoder=encoder, reranker=reranker)
    token = os.environ.get(token_env, "").strip()
    serve(folder, host, port, workers, token, ranking=spec)


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


@index_app.command("push")
def index_push(
    corpus: CorpusName,
    to: Annotated[
        str,
        typer.Option(
            metavar="ENGINE",
            help="postgresql://user@host/database, qdrant+http://host:6333/COLLECTION, "
            "qdrant:FOLDER, or opensearch+http://host:9200/INDEX.",
        ),
    ],
    kind: CorpusKind = None,
    encoder: Annotated[
        str, typer.Option(help="A sentence-transformers folder or hub name: put in vectors, too.")
    ] = "",
) -> None:
    """Put a corpus into a search engine that others run; documents that are there are replaced."""
    from nanoscout.indexing import push_corpus

    push_corpus(corpus, kind, to, encoder, Console())


@index_app.command("delete")
def index_delete(
    folder: IndexFolder, ids: Annotated[list[str], typer.Argument(metavar="ID...")]
) -> None:
    """Delete documents by their ids."""
    from nanoscout.indexing import delete_from_index

    delete_from_index(folder, ids, Console())


@index_app.command("encode")
def index_encode(folder: IndexFolder, encoder: EncoderName = "") -> None:
    """Make an index's vectors for dense and fused ranking; later changes keep them up to date."""
    from nanoscout.indexing import encode_index

    encode_index(folder, encoder, Console())


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
    ranking: RankingName = "lexical",
    encoder: EncoderName = "",
    reranker: RerankerName = "",
    json: AsJson = False,
) -> None:
    """Search an index."""
    from nanoscout.indexing import show_search

    spec = RankingSpec(ranking=ranking, encoder=encoder, reranker=reranker)
    show_search(folder, query, k, spec, Console(), as_json=json)


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
    except SystemExit as ended:
        if ended.code == 130:  # what typer makes of Ctrl-C
            print(
                "nanoscout: stopped; eval run --suite goes on with the same command, train with "
                "--resume, too",
                file=sys.stderr,
            )
        raise
