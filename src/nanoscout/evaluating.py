"""`nanoscout eval run --suite`: models and agents on a suite, over real tools, into a folder.

Every model is asked by every agent (a cell each), many questions at a time. The tools are those of
an MCP server that runs as a process of its own; frameworks reach the model over an OpenAI-compatible
endpoint, which runs as another one. Both are started here unless their addresses are given. The
folder keeps all that was said (evaluation/results_folder.py): the same command goes on where the
last one was stopped.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from nanoscout import __version__
from nanoscout.answer_progress import AnswerProgress
from nanoscout.engine.protocol import Sampling
from nanoscout.entrants import Entrant, entrants, labels, open_in_process, scene
from nanoscout.errors import UserError
from nanoscout.evaluation.agents import AGENTS, open_agent
from nanoscout.evaluation.agents.terms import InProcess, Remote, Terms
from nanoscout.evaluation.asking import ask
from nanoscout.evaluation.cell_figures import cell_figures
from nanoscout.evaluation.cell_table import cell_table
from nanoscout.evaluation.endpoint import check_endpoint, served_models
from nanoscout.evaluation.grading.graded import grade_answer, grader_of
from nanoscout.evaluation.processes import Serving, serving, while_up
from nanoscout.evaluation.results_folder import RESULTS, Asked, Cell, CellLog, ResultsFolder, filling, read_results
from nanoscout.evaluation.suites import Suite, check_evidence, open_suite
from nanoscout.evaluation.suites.evidence import Place
from nanoscout.files import write_json
from nanoscout.judge.judge import Judge
from nanoscout.recipe import EvaluationSpec, JudgeSpec, Recipe, SearchSpec
from nanoscout.records import Passage
from nanoscout.rollout.episode import Limits
from nanoscout.search.index import SearchIndex
from nanoscout.search.web.engine import SEARXNG
from nanoscout.search.web.services import KEYED
from nanoscout.setting import is_run

NATIVE = "native"
MCP = ("mcp:", "mcp+http://", "mcp+https://")


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for."""

    models: Sequence[str]
    suite: str
    path: Path | None = None
    agents: Sequence[str] = (NATIVE,)
    thinking: Sequence[bool] = (False,)
    questions: int | None = None
    search: str = ""
    """An index's folder, or an engine as `search.engine` names it; empty: the suite's own corpus."""
    closed_book: bool = False
    anyway: bool = False
    endpoint: str = ""
    endpoint_key_env: str = ""
    judge: JudgeSpec | None = None
    greedy: bool = False
    seed: int = 0
    concurrency: int = 16
    overrides: Sequence[str] = ()
    out: Path | None = None


@dataclass(frozen=True)
class Plan:
    """What was asked for, read and found to make sense."""

    wanted: Wanted
    suite: Suite
    entrants: Sequence[Entrant]
    terms: Terms
    search: SearchSpec
    evidence: str

    def cells(self) -> Iterator[tuple[Entrant, Cell]]:
        """Model by model, so that each is loaded once."""
        for entrant in self.entrants:
            checksum = (
                f"{self.wanted.endpoint} {entrant.source}"
                if self.wanted.endpoint
                else entrant.checksum
            )
            for thinking in self.wanted.thinking:
                for agent in self.wanted.agents:
                    yield entrant, Cell(entrant.name, agent, thinking, checksum)


def evaluate_suite(wanted: Wanted, console: Console) -> dict[str, Any]:
    """Ask, grade and count; returns what is then in results.json.

    Raises UserError for what makes no sense before anything is asked, and for what breaks later;
    what was done by then is kept.
    """
    plan = _plan(wanted)
    folder = wanted.out or Path("evaluations") / plan.suite.name
    judge = Judge(wanted.judge, folder / "grades.sqlite") if wanted.judge else None
    if judge:
        asyncio.run(judge.check())
    asked = [Asked(of, plan.suite.topics.get(of.id, "")) for of in plan.suite.questions]
    with filling(folder, _conditions(plan, judge), asked) as results:
        index = _index(plan, results)
        console.print(
            f"{len(asked):,} of {plan.suite.of:,} questions of {plan.suite.name}; {plan.evidence}; "
            f"graded by {grader_of(judge)}.",
            highlight=False,
        )
        logs = [(entrant, results.open_cell(cell)) for entrant, cell in plan.cells()]
        _write_figures(plan, results)
        try:
            with AnswerProgress(console) as progress:
                asyncio.run(_run(plan, results, logs, index, judge, progress))
        except UserError as error:
            raise UserError(
                f"{error}. What was done is kept in {folder}; the same command goes on"
            ) from error
        finally:
            figures = _write_figures(plan, results)
    console.print(cell_table(figures["cells"]))
    console.print(f"Figures: {folder / RESULTS}", highlight=False)
    return figures


def _plan(wanted: Wanted) -> Plan:
    remote = [agent for agent in wanted.agents if agent != NATIVE]
    for agent in wanted.agents:
        if agent not in AGENTS:
            raise UserError(f"--agent {agent}: no such agent; take {', '.join(AGENTS)}")
    if wanted.closed_book and (remote or wanted.search):
        raise UserError("--closed-book: no tools at all, so --agent native alone, and no --search")
    if wanted.endpoint and NATIVE in wanted.agents:
        raise UserError(
            "--endpoint: the native agent needs the model in this process; name other agents"
        )
    recipe = scene(wanted.models, wanted.overrides)
    search = _search(wanted, recipe)
    suite = open_suite(wanted.suite, _suite_path(wanted), wanted.questions, wanted.seed)
    place, index = _place(wanted)
    evidence = check_evidence(
        suite, place, index and (lambda url: index.passage(url) is not None), anyway=wanted.anyway
    )
    if wanted.endpoint:
        check_endpoint(wanted.endpoint, wanted.models, wanted.endpoint_key_env)
        named = zip(labels(wanted.models), wanted.models, strict=True)
        found = [Entrant(label, name, None) for label, name in named]
    else:
        found = entrants(wanted.models)
    return Plan(wanted, suite, found, _terms(wanted, recipe), search, evidence)


def _suite_path(wanted: Wanted) -> Path | None:
    """For a generated world, by default that of the first run."""
    if wanted.suite == "world" and wanted.path is None:
        return next((Path(name) for name in wanted.models if is_run(name)), None)
    return wanted.path


def _search(wanted: Wanted, recipe: Recipe | None) -> SearchSpec:
    """The sizes of results as the first run's recipe has them; the engine as it is asked for."""
    spec = recipe.search if recipe else SearchSpec()
    engine = "local" if not wanted.search or Path(wanted.search).is_dir() else wanted.search
    fields = spec.model_dump() | {"engine": engine, "ranking": "lexical", "reranker": ""}
    remote = [agent for agent in wanted.agents if agent != NATIVE]
    if remote and engine != "local" and not engine.startswith(MCP):
        raise UserError(
            f"--search {engine}: {remote[0]} reaches tools over MCP alone; name an index's folder, "
            "or an MCP server (mcp+http://…)"
        )
    return SearchSpec(**fields)


def _place(wanted: Wanted) -> tuple[Place, SearchIndex | None]:
    if wanted.closed_book:
        return "nothing", None
    if not wanted.search:
        return "own", None
    if Path(wanted.search).is_dir():
        return "index", SearchIndex.open(Path(wanted.search))
    web = wanted.search in KEYED or wanted.search.startswith(SEARXNG)
    return ("web" if web else "index"), None


def _terms(wanted: Wanted, recipe: Recipe | None) -> Terms:
    spec = recipe.evaluation if recipe else EvaluationSpec()
    sampled = None if wanted.greedy else spec.sampled
    sampling = Sampling(**sampled.model_dump()) if sampled else Sampling(temperature=0.0)
    return Terms(sampling, Limits(spec.context, spec.turns, spec.turn_tokens, spec.malformed_turns))


def _conditions(plan: Plan, judge: Judge | None) -> dict[str, Any]:
    """All that an answer or its grade depends on, but the model, its prompt and its agent."""
    suite, wanted = plan.suite, plan.wanted
    sampling = plan.terms.sampling
    corpus = ""
    if suite.passages is not None and not wanted.search:
        corpus = _checksum(suite.passages)
    elif wanted.search and Path(wanted.search).is_dir():
        corpus = hashlib.sha256(Path(wanted.search, "meta.json").read_bytes()).hexdigest()
    return {
        "suite": suite.name,
        "questions": suite.source.sha256,
        "search": "closed book" if wanted.closed_book else wanted.search or "own corpus",
        "corpus": corpus,
        "results": plan.search.model_dump(
            include={"results", "preview", "preview_chars", "page_chars"}
        ),
        "grader": str(grader_of(judge)),
        "sampling": {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
        },
        "limits": asdict(plan.terms.limits),
        "seed": wanted.seed,
    }


def _checksum(passages: Sequence[Passage]) -> str:
    digest = hashlib.sha256()
    for passage in passages:
        digest.update(json.dumps(asdict(passage)).encode())
    return digest.hexdigest()


def _index(plan: Plan, results: ResultsFolder) -> Path | None:
    """The folder of the index that the MCP server serves, if one is to be started."""
    wanted = plan.wanted
    if wanted.search:
        return Path(wanted.search) if Path(wanted.search).is_dir() else None
    if wanted.closed_book:
        return None
    assert plan.suite.passages is not None
    folder = results.path / "index"
    if not folder.exists():
        SearchIndex.build(plan.suite.passages, folder)
    return folder


async def _run(
    plan: Plan,
    results: ResultsFolder,
    logs: Sequence[tuple[Entrant, CellLog]],
    index: Path | None,
    judge: Judge | None,
    progress: AnswerProgress,
) -> None:
    open_logs = [(entrant, log) for entrant, log in logs if _is_open(log)]
    async with AsyncExitStack() as stack:
        if judge:
            await stack.enter_async_context(judge)
        servers = []
        search = plan.search
        if index is not None and open_logs:
            arguments = ["mcp", str(index), "--http", "--port", "0", *_result_options(search)]
            log = results.path / "mcp.log"
            mcp = await stack.enter_async_context(serving("the MCP server", arguments, log))
            servers.append(mcp)
            search = search.model_copy(update={"engine": f"mcp+{mcp.url}"})
        for entrant in dict.fromkeys(entrant for entrant, _ in open_logs):
            cells = [log for of, log in open_logs if of == entrant]
            await _run_entrant(plan, results, entrant, cells, search, servers, judge, progress)


async def _run_entrant(
    plan: Plan,
    results: ResultsFolder,
    entrant: Entrant,
    logs: Sequence[CellLog],
    search: SearchSpec,
    servers: Sequence[Serving],
    judge: Judge | None,
    progress: AnswerProgress,
) -> None:
    """All of one model's cells: the native ones first, so that the model is in memory once."""

    async def run_cell(log: CellLog, where: InProcess | Remote, up: Sequence[Serving]) -> None:
        progress.start(log.answers)
        async with open_agent(log.answers.cell.agent, plan.terms, where) as agent:
            asking = ask(
                agent,
                log.answers.asked,
                log,
                partial(grade_answer, judge=judge),
                seed=plan.wanted.seed,
                concurrency=plan.wanted.concurrency,
                on_graded=progress.graded,
            )
            await while_up(up, asking)

    for log in logs:
        if log.answers.cell.agent == NATIVE:
            where = await asyncio.to_thread(
                open_in_process,
                entrant,
                search,
                log.answers.cell.thinking,
                plan.wanted.overrides,
                concurrency=plan.wanted.concurrency,
                context=plan.terms.limits.context,
                closed_book=plan.wanted.closed_book,
            )
            await run_cell(log, where, servers)
            del where
    remote = [log for log in logs if log.answers.cell.agent != NATIVE]
    if not remote:
        return
    async with AsyncExitStack() as stack:
        url, model = plan.wanted.endpoint, entrant.source
        up = list(servers)
        if not url:
            log_file = results.path / f"{entrant.name}.log"
            arguments = ["serve", *entrant.serve, "--port", "0"]
            arguments += ["--context", str(plan.terms.limits.context)]
            arguments += ["--concurrency", str(plan.wanted.concurrency)]
            served = await stack.enter_async_context(serving("the model's server", arguments, log_file))
            up.append(served)
            url = served.url
            [model] = await asyncio.to_thread(served_models, url)
        for log in remote:
            tools = search.engine.removeprefix("mcp:").removeprefix("mcp+")
            cell = log.answers.cell
            where = Remote(url, model, tools, cell.thinking, plan.wanted.endpoint_key_env)
            await run_cell(log, where, up)


def _is_open(log: CellLog) -> bool:
    return len(log.answers.grades) < len(log.answers.asked)


def _result_options(search: SearchSpec) -> list[str]:
    fields = ("results", "preview", "preview_chars", "page_chars")
    return [part for f in fields for part in (f"--{f.replace('_', '-')}", str(getattr(search, f)))]


def _write_figures(plan: Plan, results: ResultsFolder) -> dict[str, Any]:
    """Of all of the folder's cells, those of earlier commands included."""
    figures = {
        "nanoscout": __version__,
        "conditions": results.conditions,
        "source": asdict(plan.suite.source),
        "of": plan.suite.of,
        "evidence": plan.evidence,
        "cells": [cell_figures(answers) for answers in read_results(results.path)[1]],
    }
    write_json(results.path / RESULTS, figures)
    return figures
