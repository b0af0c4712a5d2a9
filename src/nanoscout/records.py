"""The nouns that every part of nanoscout passes around: plain data.

A `Question` is asked over a corpus of `Passage`s. A search answers with `Hit`s, a visit with a
`Page`. The model's `ToolCall` gets a `ToolResult`. One whole conversation is a `Trajectory`:
token ids exactly as they were sampled, never re-tokenised text, so that what the engine
sampled is what the learner trains on.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any


@dataclass(frozen=True, slots=True)
class Step:
    """One hop of a question's decomposition, already filled in (no `#1` left)."""

    question: str
    """Empty, like `answer`, where a question set names only the page."""
    answer: str
    passage_id: str = ""
    """Id of the passage that supports this hop, empty where unknown."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question with a verifiable short answer."""

    id: str
    text: str
    answer: str
    aliases: tuple[str, ...] = ()
    hop_type: str = "1hop"
    """MuSiQue's names: 1hop, 2hop, 3hop1, 3hop2, 4hop1, 4hop2, 4hop3."""
    steps: tuple[Step, ...] = ()

    @property
    def hops(self) -> int:
        return int(self.hop_type[0])

    @property
    def supporting(self) -> tuple[str, ...]:
        """Ids of the passages that a full proof of the answer needs, each once, in hop order."""
        return tuple(dict.fromkeys(step.passage_id for step in self.steps if step.passage_id))


@dataclass(frozen=True, slots=True)
class Passage:
    """One document of the corpus, as it is indexed."""

    id: str
    title: str
    text: str
    url: str
    """Stable address: the one that a search names and that visit opens."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One line of a result page."""

    passage_id: str
    title: str
    url: str
    preview: str
    score: float


@dataclass(frozen=True, slots=True)
class Page:
    """A portion of a document, as visit shows it."""

    passage_id: str
    title: str
    url: str
    text: str
    offset: int
    """Characters of the document before this portion."""
    next_offset: int | None
    """Where the next portion begins; None at the end of the document."""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """What a model is told of a tool."""

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON schema of the arguments (an object)."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    name: str
    args: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the model reads after a call."""

    text: str
    ok: bool
    """False for a call that was refused or failed (unknown tool, wrong arguments, no such page)."""
    shown: tuple[str, ...] = ()
    """Ids of the passages of which the result shows text."""
    seconds: float = 0.0
    faults: tuple[str, ...] = ()
    """Names of the faults that the simulated search engine put in."""


class StopReason(StrEnum):
    """Why an episode ended."""

    ANSWERED = "answered"
    TURN_LIMIT = "turn_limit"
    CONTEXT_LIMIT = "context_limit"
    TOKEN_LIMIT = "token_limit"
    MALFORMED = "malformed"
    TOOL_UNAVAILABLE = "tool_unavailable"

    @property
    def cut_by_budget(self) -> bool:
        """True where a limit, not the model, ended the episode."""
        return self in (StopReason.TURN_LIMIT, StopReason.CONTEXT_LIMIT, StopReason.TOKEN_LIMIT)


class Grade(StrEnum):
    """What a judge makes of an answer (the three grades of SimpleQA, arXiv 2411.04368)."""

    CORRECT = "CORRECT"
    INCORRECT = "INCORRECT"
    NOT_ATTEMPTED = "NOT_ATTEMPTED"


class TurnKind(StrEnum):
    """What the strict parser made of one assistant turn."""

    CALL = "call"
    ANSWER = "answer"
    NO_TAG = "no_tag"
    UNCLOSED = "unclosed"
    SEVERAL = "several"
    CALL_AND_ANSWER = "call_and_answer"
    TRAILING_TEXT = "trailing_text"
    BAD_JSON = "bad_json"
    BAD_CALL = "bad_call"
    """JSON, but not an object with a string `name` and an object of arguments."""
    EMPTY_ANSWER = "empty_answer"
    FORGED_RESULT = "forged_result"
    """The model wrote a result of its own."""

    @property
    def malformed(self) -> bool:
        return self not in (TurnKind.CALL, TurnKind.ANSWER)


@dataclass(slots=True)
class Turn:
    """One assistant turn: the span of ids it sampled and what became of it."""

    start: int
    end: int
    """`token_ids[start:end]` are the turn's sampled tokens."""
    text: str
    kind: TurnKind
    calls: list[ToolCall] = field(default_factory=list)
    results: list[ToolResult] = field(default_factory=list)
    """The calls' results, in the order of the calls (none where the episode ended before they
    were made); or the one error that answered a malformed turn."""
    think_tokens: int = 0
    """Sampled tokens of the think block, its tags included."""


@dataclass(slots=True)
class Trajectory:
    """One conversation, token for token.

    `token_ids`, `sampled` and `logprobs` have the same length T. `sampled[t]` tells whether the
    policy sampled token t (the loss mask; everything is attended to). `logprobs[t]` is the
    engine's log-probability of a sampled token and 0.0 for a given one.

    Where the history was rewritten between two turns (thoughts were cut from it), `token_ids` goes
    on with the whole new history, all of it given: `restarts` says where. Each stretch up to the
    next restart is a sequence as the model saw it, and each sampled token is sampled in just one.
    """

    question: Question
    token_ids: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    stop: StopReason = StopReason.ANSWERED
    answer: str | None = None
    grade: Grade | None = None
    """What the judge says of the answer; None where none was asked or none could say."""
    policy_version: int = 0
    seed: int = 0
    seconds: float = 0.0
    restarts: list[int] = field(default_factory=list)
    format: str = "xml"
    """Name of the format that calls and results are written in."""

    @property
    def sampled_tokens(self) -> int:
        return sum(self.sampled)

    @property
    def sequences(self) -> list[slice]:
        """The stretches of `token_ids` that the model saw as one context each; mostly one."""
        return [slice(*ends) for ends in pairwise([0, *self.restarts, len(self.token_ids)])]

    @property
    def think_tokens(self) -> int:
        return sum(turn.think_tokens for turn in self.turns)

    @property
    def calls(self) -> list[ToolCall]:
        """Every well-formed call, in order."""
        return [call for turn in self.turns for call in turn.calls]

    @property
    def results(self) -> list[ToolResult]:
        """Everything that tools, or errors in their place, have answered."""
        return [result for turn in self.turns for result in turn.results]

    @property
    def shown(self) -> set[str]:
        """Ids of every passage of which a tool result showed text."""
        return {passage_id for result in self.results for passage_id in result.shown}
