"""Agents by name: our own episode, and those of frameworks over MCP (docs/agents.md)."""

from nanoscout.errors import UserError
from nanoscout.evaluation.agents.native import NativeAgent
from nanoscout.evaluation.agents.terms import InProcess, Remote, Terms
from nanoscout.evaluation.attempt import Agent

AGENTS = ("native", "langgraph")


def open_agent(name: str, terms: Terms, where: InProcess | Remote) -> Agent:
    """The agent of this name, to be opened with `async with`.

    `native` lives in process, the others are remote. Raises UserError for an unknown name, and
    where the framework is not installed.
    """
    if name not in AGENTS:
        raise UserError(f"--agent {name}: no such agent; take {', '.join(AGENTS)}")
    if isinstance(where, InProcess) != (name == "native"):
        raise UserError(
            f"--agent {name}: it needs "
            + ("a run or model in this process" if name == "native" else "a model at an endpoint")
        )
    if isinstance(where, InProcess):
        return NativeAgent(terms, where)
    try:
        from nanoscout.evaluation.agents.langgraph import LangGraphAgent
    except ModuleNotFoundError as error:
        raise UserError(
            f"--agent {name}: {error.name} is missing: pip install 'nanoscout[agents]'"
        ) from None
    return LangGraphAgent(terms, where)
