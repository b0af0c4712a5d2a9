"""`nanoscout eval run --suite`: models and agents on a suite, over real tools, into a folder.

Every model is asked by every agent (a cell each), many questions at a time. The tools are those of
an MCP server that runs as a process of its own; frameworks reach the model over an endpoint of
OpenAI's interface, which runs as another one. Both are started here unless their addresses are
given. The folder keeps all that was said (evaluation/results_folder.py): the same command goes on
where the last one was stopped.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console

from nanoscout import __version__
from nanoscout.answer_progress import AnswerProgress
from nanoscout.entrants import Entrant, open_in_process
from nanoscout.errors import UserError
from nanoscout.eval_plan import NATIVE, Plan, Wanted, conditions, make_plan
from nanoscout.evaluation.agents import open_agent, prompt_room
from nanoscout.evaluation.agents.terms import InProcess, Remote
from nanoscout.evaluation.asking import ask
from nanoscout.evaluation.cell_figures import cell_figures
from nanoscout.evaluation.cell_table import cell_table
from nanoscout.evaluation.endpoint import served_models
from nanoscout.evaluation.grading.graded import grade_answer, grader_of
from nanoscout.evaluation.processes import Serving, serving, while_up
from nanoscout.evaluation.results_folder import (
    RESULTS,
    Asked,
    CellLog,
    ResultsFolder,
    filling,
    read_results,
)
from nanoscout.files import write_json
from nanoscout.judge.judge import Judge
from nanoscout.models.load import load_config
from nanoscout.recipe import SearchSpec
from nanoscout.search.index import SearchIndex


def evaluate_suite(wanted: Wanted, console: Console) -> dict[str, Any]:
    """Ask, grade and count; returns what is then in results.json.

    Raises UserError for what makes no sense before anything is asked, and for what breaks later;
    what was done by then is kept.
    """
    plan = make_plan(wanted)
    folder = wanted.out or Path("evaluations") / plan.suite.name
    judge = Judge(wanted.judge, folder / "grades.sqlite") if wanted.judge else None
    if judge:
        asyncio.run(judge.check())
    asked = [Asked(of, plan.suite.topics.get(of.id, "")) for of in plan.suite.questions]
    with filling(folder, conditions(plan, judge), asked) as results:
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
    frameworks = [log for log in logs if log.answers.cell.agent != NATIVE]
    # Agents whose frameworks bring a prompt of their own have more context, and a server of theirs.
    by_room = sorted(frameworks, key=lambda log: prompt_room(log.answers.cell.agent))
    for room, group in groupby(by_room, key=lambda log: prompt_room(log.answers.cell.agent)):
        async with _endpoint(plan, results, entrant, room) as (url, model, served):
            for log in group:
                tools = search.engine.removeprefix("mcp:").removeprefix("mcp+")
                cell = log.answers.cell
                key = plan.wanted.endpoint_key_env
                remote = Remote(url, model, tools, cell.thinking, key)
                await run_cell(log, remote, [*servers, *served])


@asynccontextmanager
async def _endpoint(
    plan: Plan, results: ResultsFolder, entrant: Entrant, room: int
) -> AsyncGenerator[tuple[str, str, Sequence[Serving]]]:
    """The address of a model, its name there, and the server that was started for it.

    `room`: tokens of context beyond the limit, as far as the model has them.
    """
    if plan.wanted.endpoint:
        yield plan.wanted.endpoint, entrant.source, ()
        return
    context = plan.terms.limits.context
    if room:
        config = await asyncio.to_thread(load_config, entrant.source)
        positions = getattr(config, "max_position_embeddings", None) or context + room
        context = max(context, min(context + room, positions))
    arguments = ["serve", *entrant.serve, "--port", "0", "--context", str(context)]
    arguments += ["--concurrency", str(plan.wanted.concurrency)]
    log = results.path / f"{entrant.name}-{context}.log"
    async with serving("the model's server", arguments, log) as served:
        [model] = await asyncio.to_thread(served_models, served.url)
        yield served.url, model, [served]


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
