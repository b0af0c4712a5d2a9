"""What an evaluation is asked to do, read and found to make sense before anything is done.

The first run among the models sets the limits, the sampling and the sizes of results for all of
them; without a run, the defaults do.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanoscout.engine.protocol import Sampling
from nanoscout.entrants import Entrant, entrants, labels, scene
from nanoscout.errors import UserError
from nanoscout.evaluation.agents import check_agent
from nanoscout.evaluation.agents.terms import Terms
from nanoscout.evaluation.endpoint import check_endpoint
from nanoscout.evaluation.grading.graded import grader_of
from nanoscout.evaluation.results_folder import Cell
from nanoscout.evaluation.suites import Suite, check_evidence, open_suite
from nanoscout.evaluation.suites.evidence import Place
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
    """An index's folder, or an engine as `search.engine` names it; empty: the suite's corpus."""
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


def make_plan(wanted: Wanted) -> Plan:
    """Raises UserError for what makes no sense, or isn't there."""
    remote = [agent for agent in wanted.agents if agent != NATIVE]
    for agent in wanted.agents:
        check_agent(agent)
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
    has_page = None if index is None else lambda url: index.passage(url) is not None
    evidence = check_evidence(suite, place, has_page, anyway=wanted.anyway)
    if wanted.endpoint:
        check_endpoint(wanted.endpoint, wanted.models, wanted.endpoint_key_env)
        named = zip(labels(wanted.models), wanted.models, strict=True)
        found = [Entrant(label, name, None) for label, name in named]
    else:
        found = entrants(wanted.models)
    spec = recipe.evaluation if recipe else EvaluationSpec()
    return Plan(wanted, suite, found, terms_of(spec, wanted.greedy), search, evidence)


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


def terms_of(spec: EvaluationSpec, greedy: bool = False) -> Terms:
    sampled = None if greedy else spec.sampled
    sampling = Sampling(**sampled.model_dump()) if sampled else Sampling(temperature=0.0)
    return Terms(sampling, Limits(spec.context, spec.turns, spec.turn_tokens, spec.malformed_turns))


def conditions(plan: Plan, judge: Judge | None) -> dict[str, Any]:
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
        "overrides": list(wanted.overrides),
        "seed": wanted.seed,
    }


def _checksum(passages: Sequence[Passage]) -> str:
    digest = hashlib.sha256()
    for passage in passages:
        digest.update(json.dumps(asdict(passage)).encode())
    return digest.hexdigest()
