"""The suites as tasks of Inspect (inspect.aisi.org.uk), for its models, its logs and its viewer.

    inspect eval nanoscout/suite -T name=simpleqa -T tools=http://127.0.0.1:8000/mcp --model ...
    inspect eval nanoscout/suite -T name=world -T agent=runs/quickstart --model none
    inspect view

The first asks any model that Inspect knows, with the tools of an MCP server (or, without `tools`,
closed book); the second runs a model of ours in its own episode, as `nanoscout eval run` does. Both
are graded as there, by exact match or by a judge.
"""

import asyncio
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from nanoscout.entrants import entrants, open_in_process, scene
from nanoscout.errors import UserError
from nanoscout.eval_plan import terms_of
from nanoscout.evaluation.agents.final_answer import final_answer
from nanoscout.evaluation.agents.native import NativeAgent
from nanoscout.evaluation.attempt import Attempt
from nanoscout.evaluation.grading.graded import grade_answer
from nanoscout.evaluation.suites import open_suite
from nanoscout.files import cache_folder
from nanoscout.judge.judge import Judge
from nanoscout.recipe import EvaluationSpec, JudgeSpec, SearchSpec
from nanoscout.records import Grade, Question
from nanoscout.seeds import derive_seed

try:
    from inspect_ai import Task, task
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import (
        ChatMessage,
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageTool,
        ChatMessageUser,
        ModelOutput,
    )
    from inspect_ai.scorer import (
        CORRECT,
        INCORRECT,
        NOANSWER,
        Score,
        Scorer,
        Target,
        accuracy,
        scorer,
        stderr,
    )
    from inspect_ai.solver import Generate, Solver, TaskState, solver, system_message
    from inspect_ai.tool import (
        MCPServer,
        ToolCall,
        mcp_connection,
        mcp_server_http,
        mcp_server_stdio,
        mcp_tools,
    )
except ImportError:
    raise UserError("Inspect is not installed: pip install 'nanoscout[inspect]'") from None

MESSAGES = 32
"""Of a conversation with tools, at most; what was answered by then is graded."""

TASK = "Answer the question. Write the final answer, as short as possible, in <answer>...</answer>."
WITH_TOOLS = "Search first, then read the pages whose previews look right."

LETTERS = {Grade.CORRECT: CORRECT, Grade.INCORRECT: INCORRECT, Grade.NOT_ATTEMPTED: NOANSWER}

_QUESTION = TypeAdapter(Question)


@task
def suite(
    name: str,
    path: str = "",
    questions: int | None = None,
    seed: int = 0,
    tools: str = "",
    agent: str = "",
    judge: str = "",
    judge_model: str = "",
) -> Task:
    """`name`, `path`, `questions` and `seed` as of `nanoscout eval run`; `tools`: the address of an
    MCP server, or the command that starts one; `agent`: a run or model of ours, to be asked in
    place of Inspect's; `judge`, `judge_model`: an endpoint that grades."""
    opened = open_suite(name, Path(path) if path else None, questions, seed)
    samples = [
        Sample(
            id=question.id,
            input=question.text,
            target=[question.answer, *question.aliases],
            metadata={
                "question": _QUESTION.dump_python(question, mode="json"),
                "hops": question.hops,
                "topic": opened.topics.get(question.id, ""),
            },
        )
        for question in opened.questions
    ]
    if agent:
        solvers = [our_agent(agent, tools, seed)]
    elif tools:
        solvers = [system_message(f"{TASK} {WITH_TOOLS}"), with_tools(tools)]
    else:
        solvers = [system_message(TASK), closed_book()]
    return Task(
        name=f"nanoscout_{name}",
        dataset=MemoryDataset(samples, name=name),
        solver=solvers,
        scorer=graded(judge, judge_model),
        message_limit=None if agent else MESSAGES,
    )


@solver
def with_tools(tools: str) -> Solver:
    """Inspect's model with the tools of an MCP server, until it calls none."""
    source = mcp_tools(_mcp_server(tools))

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        async with mcp_connection(source):
            state.tools = await source.tools()
            return await generate(state, tool_calls="loop")

    return solve


@solver
def closed_book() -> Solver:
    """Inspect's model alone."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        return await generate(state, tool_calls="none")

    return solve


@solver
def our_agent(model: str, tools: str, seed: int = 0) -> Solver:
    """A run, or a model, in the episode that trains; its engine is shared by all samples."""
    opened: list[NativeAgent] = []
    opening = asyncio.Lock()

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        async with opening:
            if not opened:
                agent = await asyncio.to_thread(_open_agent, model, tools)
                opened.append(await agent.__aenter__())
        question = _QUESTION.validate_python(state.metadata["question"])
        attempt = await opened[0].attempt(question, derive_seed(seed, "evaluation", question.id))
        state.messages = [_message(message) for message in attempt.messages]
        state.output = ModelOutput.from_content(model, attempt.answer or "", stop_reason="stop")
        state.store.set("attempt", _cost(attempt))
        state.completed = True
        return state

    return solve


@scorer(metrics=[accuracy(), stderr()])
def graded(judge: str = "", judge_model: str = "") -> Scorer:
    """Our grade: the judge's three, or exact match, with the other measures beside it."""

    async def score(state: TaskState, target: Target) -> Score:
        question = _QUESTION.validate_python(state.metadata["question"])
        answer = final_answer(state.output.completion)
        if judge:
            spec = JudgeSpec(url=judge, model=judge_model)
            async with Judge(spec, cache_folder() / "grades.sqlite") as asked:
                grade = await grade_answer(question, answer, asked)
        else:
            grade = await grade_answer(question, answer, None)
        plain = CORRECT if grade.exact else INCORRECT
        return Score(
            value=plain if grade.grade is None else LETTERS[grade.grade],
            answer=answer or "",
            explanation=f"graded by {grade.grader}",
            metadata={"exact": grade.exact, "f1": grade.f1, "contains": grade.contains},
        )

    return score


def _open_agent(model: str, tools: str) -> NativeAgent:
    [entrant] = entrants([model])
    recipe = scene([model], [])
    spec = recipe.evaluation if recipe else EvaluationSpec()
    search = recipe.search if recipe else SearchSpec()
    if tools:
        is_address = tools.startswith(("http://", "https://"))
        engine = f"mcp+{tools}" if is_address else f"mcp:{tools}"
        search = SearchSpec(**(search.model_dump() | {"engine": engine, "ranking": "lexical"}))
    where = open_in_process(
        entrant, search, False, [], concurrency=16, context=spec.context, closed_book=False
    )
    return NativeAgent(terms_of(spec), where)


def _mcp_server(tools: str) -> MCPServer:
    if tools.startswith(("http://", "https://")):
        return mcp_server_http(name="nanoscout", url=tools)
    command, *arguments = shlex.split(tools)
    return mcp_server_stdio(name="nanoscout", command=command, args=arguments)


def _message(message: Mapping[str, Any]) -> ChatMessage:
    """One of OpenAI's, as Inspect's viewer shows it."""
    content = message.get("content") or ""
    if message["role"] == "system":
        return ChatMessageSystem(content=content)
    if message["role"] == "tool":
        return ChatMessageTool(content=content, tool_call_id=message["tool_call_id"])
    if message["role"] == "user":
        return ChatMessageUser(content=content)
    calls = [
        ToolCall(
            id=call["id"],
            function=call["function"]["name"],
            arguments=json.loads(call["function"]["arguments"]),
        )
        for call in message.get("tool_calls", [])
    ]
    return ChatMessageAssistant(content=content, tool_calls=calls or None)


def _cost(attempt: Attempt) -> dict[str, Any]:
    return {
        "stop": attempt.stop,
        "searches": attempt.searches,
        "visits": attempt.visits,
        "prompt_tokens": attempt.prompt_tokens,
        "completion_tokens": attempt.completion_tokens,
        "seconds": attempt.seconds,
    }
