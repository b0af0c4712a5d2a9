"""Agents by name: our own episode, and those of frameworks over MCP (docs/evaluation.md)."""

from importlib import import_module

from nanoscout.errors import UserError
from nanoscout.evaluation.agents.native import NativeAgent
from nanoscout.evaluation.agents.terms import InProcess, Remote, Terms
from nanoscout.evaluation.attempt import Agent

AGENTS = ("native", "langgraph", "smolagents-code", "smolagents-tools")
PROMPT_ROOM = 3_072
"""Tokens for the system prompt that smolagents brings, which no run has reckoned with."""


def prompt_room(name: str) -> int:
    """The tokens that an agent's context needs beyond the limit that holds for all agents."""
    return PROMPT_ROOM if name.startswith("smolagents") else 0


def check_agent(name: str) -> None:
    """Raises UserError for an unknown name, and where the agent's framework is not installed."""
    if name not in AGENTS:
        raise UserError(f"--agent {name}: no such agent; take {', '.join(AGENTS)}")
    if name != "native":
        try:
            import_module(f"nanoscout.evaluation.agents.{name.partition('-')[0]}")
        except ModuleNotFoundError as error:
            raise UserError(
                f"--agent {name}: {error.name} is missing: pip install 'nanoscout[agents]'"
            ) from None


def open_agent(name: str, terms: Terms, where: InProcess | Remote) -> Agent:
    """The agent of this name, to be opened with `async with`.

    `native` lives in process, the others are remote. Raises UserError as `check_agent` does.
    """
    check_agent(name)
    if isinstance(where, InProcess) != (name == "native"):
        raise UserError(
            f"--agent {name}: it needs "
            + ("a run or model in this process" if name == "native" else "a model at an endpoint")
        )
    if isinstance(where, InProcess):
        return NativeAgent(terms, where)
    if name == "langgraph":
        from nanoscout.evaluation.agents.langgraph import LangGraphAgent

        return LangGraphAgent(terms, where)
    from nanoscout.evaluation.agents.smolagents import SmolAgent

    return SmolAgent(name, terms, where)
