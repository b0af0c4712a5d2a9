"""What an agent makes of one question, whichever framework it is built with.

An agent finds answers with tools. The native one is the episode that trains; the others are
frameworks that reach the tools over MCP and the model over an OpenAI-compatible endpoint. An
evaluation knows them by this protocol alone.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

from nanoscout.records import Question


@dataclass(frozen=True, slots=True)
class Attempt:
    """The whole conversation over one question, and what it cost."""

    question_id: str
    answer: str | None
    """None where the agent gave none: a limit ended it, or its form was wrong."""
    stop: str
    """A value of StopReason."""
    messages: list[dict[str, Any]] = field(default_factory=list)
    """The conversation as OpenAI-style chat messages, tool calls and results included."""
    searches: int = 0
    visits: int = 0
    prompt_tokens: int = 0
    """Tokens that the model read, counted once a request by endpoints."""
    completion_tokens: int = 0
    think_tokens: int = 0
    seconds: float = 0.0

    @property
    def calls(self) -> int:
        return self.searches + self.visits


class AgentFailed(Exception):
    """Model or tools could not be reached after retries: no attempt was made, nothing is graded."""


class Agent(Protocol):
    """Answers any number of questions at once; open while in `async with`."""

    @property
    def name(self) -> str:
        """One of evaluation/agents' AGENTS."""
        ...

    async def __aenter__(self) -> "Agent": ...

    async def __aexit__(self, *exception: object) -> None: ...

    async def attempt(self, question: Question, seed: int) -> Attempt:
        """Raises AgentFailed; a wrong answer, a limit or bad form is an attempt like others."""
        ...
