"""What a client of the OpenAI-compatible endpoint asks for, checked and in our own nouns.

Parameters that change what the answer is, and that cannot be honoured, are refused by name. Those
that only describe the request (`user`, `store`, `metadata`, ...) are ignored, as are unknown ones.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from nanoscout.engine.protocol import Sampling
from nanoscout.records import ToolCall, ToolSpec

MAX_CHOICES = 16
MAX_STOPS = 16

REFUSED = {
    "functions": "send tools",
    "function_call": "send tool_choice",
    "logit_bias": "leave it away",
    "presence_penalty": "leave it away",
    "frequency_penalty": "leave it away",
    "repetition_penalty": "leave it away",
    "top_logprobs": "only the sampled tokens' log-probabilities are known (logprobs: true)",
    "response_format": "only text is written",
    "audio": "only text is written",
    "modalities": "only text is written",
    "prediction": "leave it away",
    "web_search_options": "send a search tool",
}
"""Parameters that are refused unless they have no effect, and what to do instead."""

WITHOUT_EFFECT: tuple[Any, ...] = (None, 0, 0.0, {}, [], "auto", {"type": "text"}, ["text"])


class BadRequest(Exception):
    """The request is wrong; `parameter` and `code` are for OpenAI's shape of errors."""

    def __init__(self, text: str, parameter: str | None = None, code: str | None = None):
        super().__init__(text)
        self.parameter = parameter
        self.code = code


@dataclass(frozen=True, slots=True)
class Said:
    """One message of the conversation; a turn of the assistant's may have calls."""

    role: Literal["system", "user", "assistant", "tool"]
    text: str
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Chat:
    """A request, ready to be answered."""

    said: tuple[Said, ...]
    tools: tuple[ToolSpec, ...]
    sampling: Sampling
    """Without stop and banned tokens; `max_tokens` is 0 where the request has no limit."""
    stops: tuple[str, ...]
    seed: int | None
    choices: int
    thinking: bool | None
    """None: as the model is served."""


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Part(_Lenient):
    type: str
    text: str | None = None


class _CalledFunction(_Lenient):
    name: str
    arguments: str = "{}"


class _Call(_Lenient):
    function: _CalledFunction


class _Message(_Lenient):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_Part] | None = None
    tool_calls: list[_Call] | None = None

    @model_validator(mode="after")
    def _has_something_to_say(self) -> Self:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError("content is missing")
        return self

    def said(self) -> Said:
        role = "system" if self.role == "developer" else self.role
        calls = tuple(_call(call.function) for call in self.tool_calls or ())
        return Said(role, _text(self.content), calls)


class _Function(_Lenient):
    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class _Tool(_Lenient):
    type: Literal["function"]
    function: _Function


class StreamOptions(_Lenient):
    include_usage: bool = False


class ChatRequest(BaseModel):
    model_config = ConfigDict(extra="allow")

    model: str
    messages: Annotated[list[_Message], Field(min_length=1)]
    tools: list[_Tool] | None = None
    tool_choice: Any = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    """0 and -1: off."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    logprobs: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, stop: str | list[str] | None) -> str | list[str] | None:
        if isinstance(stop, list) and len(stop) > MAX_STOPS:
            raise ValueError(f"at most {MAX_STOPS} strings")
        return stop

    def chat(self) -> Chat:
        """Raises BadRequest for what cannot be honoured."""
        for name, value in (self.model_extra or {}).items():
            if name in REFUSED and value not in WITHOUT_EFFECT:
                raise BadRequest(f"{name} is not supported; {REFUSED[name]}", name)
        said = tuple(message.said() for message in self.messages)
        if said[-1].role in ("assistant", "system"):
            raise BadRequest("the last message must be of the user or a tool", "messages")
        if not any(message.role == "user" for message in said):
            raise BadRequest("there is no message of the user", "messages")
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Chat(
            said=said,
            tools=self._tools(),
            sampling=Sampling(
                temperature=1.0 if self.temperature is None else self.temperature,
                top_p=self.top_p or 1.0,
                top_k=max(0, self.top_k or 0),
                min_p=self.min_p or 0.0,
                max_tokens=self.max_completion_tokens or self.max_tokens or 0,
            ),
            stops=tuple(text for text in stops if text),
            seed=self.seed,
            choices=self.n or 1,
            thinking=self._thinking(),
        )

    def _tools(self) -> tuple[ToolSpec, ...]:
        if self.tool_choice not in (None, "auto", "none"):
            raise BadRequest(
                "tool_choice must be auto or none: no call can be forced", "tool_choice"
            )
        if self.tool_choice == "none":
            return ()
        functions = [tool.function for tool in self.tools or ()]
        if len({function.name for function in functions}) < len(functions):
            raise BadRequest("two tools have the same name", "tools")
        empty = {"type": "object", "properties": {}}
        return tuple(
            ToolSpec(function.name, function.description or "", function.parameters or empty)
            for function in functions
        )

    def _thinking(self) -> bool | None:
        asked = (self.chat_template_kwargs or {}).get("enable_thinking")
        if asked not in (None, True, False):
            raise BadRequest("enable_thinking must be true or false", "chat_template_kwargs")
        return asked


def read_request(body: bytes) -> ChatRequest:
    """Raises BadRequest, with the first thing that is wrong."""
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part)[:40] for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        text = f"{where}: {what}" if where else what
        raise BadRequest(text, str(first["loc"][0]) if first["loc"] else None) from None


def _text(content: str | Sequence[_Part] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.type != "text" or part.text is None:
            raise BadRequest(f"content of type {part.type[:40]!r} is not supported; send text")
    return "".join(part.text or "" for part in content)


def _call(function: _CalledFunction) -> ToolCall:
    try:
        args = json.loads(function.arguments or "{}")
    except (ValueError, RecursionError):
        args = None
    if not isinstance(args, dict):
        raise BadRequest(
            f"the arguments of the call of {function.name[:40]} are no JSON object", "messages"
        )
    return ToolCall(function.name, args)
