"""What every agent of an evaluation is held to alike, and where its model and its tools are."""

from dataclasses import dataclass

from nanoscout.engine.protocol import Engine, Sampling
from nanoscout.rollout.environment import Environment
from nanoscout.rollout.episode import Limits


@dataclass(frozen=True, slots=True)
class Terms:
    """How a model is asked, whichever agent asks it."""

    sampling: Sampling
    """Its max_tokens is of no account: `limits.turn_tokens` says it."""
    limits: Limits


@dataclass(frozen=True, slots=True)
class InProcess:
    """Model and tools of the native agent. With `search.engine = "mcp:…"` in the recipe the tools
    are those of an MCP server, and say the same."""

    environment: Environment
    engine: Engine


@dataclass(frozen=True, slots=True)
class Remote:
    """Model and tools of the frameworks' agents."""

    url: str
    """Base address of an OpenAI-compatible endpoint, e.g. http://127.0.0.1:8000/v1."""
    model: str
    """The model's name at that endpoint."""
    tools: str
    """An MCP server over streamable HTTP (http://127.0.0.1:8000/mcp), or the command line that
    starts one (nanoscout mcp indexes/docs)."""
    thinking: bool = False
    """Sent as chat_template_kwargs.enable_thinking."""
    api_key_env: str = ""
    """The environment variable that holds the endpoint's key; empty: none is sent."""
