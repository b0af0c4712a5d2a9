"""A model that answers chats: from a request to token ids, to a turn, and back.

A client sends the whole conversation with each request. Where its last turn is one that was written
here, the request goes on with the very tokens of that conversation, as an episode does: nothing is
tokenised twice, and its key/value cache is still there while the conversation is among the latest.
Any other conversation is rendered by the model's chat template.
"""

import asyncio
import hashlib
import json
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from jinja2 import TemplateError

from nanoscout.dialogue.examples import Message, result_messages
from nanoscout.dialogue.template import Dialogue
from nanoscout.engine.protocol import Finish, Generation
from nanoscout.engine.torch_engine import TorchConversation, TorchEngine
from nanoscout.records import ToolCall, TurnKind
from nanoscout.seeds import derive_seed
from nanoscout.serving.chat_request import BadRequest, Chat, Said
from nanoscout.serving.turn_text import TurnText, split_thought

KEPT_TOKENS = 1_000_000
"""Ids of conversations that are remembered, some 40 MB."""

OnText = Callable[[str, str], None]
"""Hears of new text of a turn: (thought, content)."""


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """What the model wrote, and what it took."""

    content: str
    thought: str
    calls: tuple[ToolCall, ...]
    finish: str
    """stop, length or tool_calls."""
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    prompt_tokens: int
    cached_tokens: int
    """Of the prompt, how many the conversation's cache held."""
    think_tokens: int


@dataclass(slots=True)
class _Past:
    """A conversation up to a turn that was written here."""

    token_ids: list[int]
    turn_ids: tuple[int, ...]
    conversation: TorchConversation | None
    """With its cache, until it is gone on with or makes room for others."""


@dataclass(slots=True)
class ChatModel:
    """Answers up to `concurrency` chats at once; further ones wait. The engine has room for
    `concurrency + idle` conversations: so many that have ended keep their cache, as long as they
    have no more than `idle_tokens` tokens together.

    `system` is for chats that bring none; `examples` come before each chat's first question, unless
    the chat has a system message of its own and no tools; `repeat_question` repeats the last one
    after results, as the run trained it.
    """

    name: str
    engine: TorchEngine
    dialogues: dict[bool, Dialogue]
    """By whether the model may think."""
    thinking: bool
    concurrency: int
    idle: int
    idle_tokens: int = 65_536
    system: str = ""
    examples: Sequence[Sequence[Message]] = ()
    repeat_question: bool = False
    _past: OrderedDict[bytes, _Past] = field(default_factory=OrderedDict)
    _tokens: int = 0
    _places: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._places = asyncio.Semaphore(self.concurrency)

    @property
    def open_conversations(self) -> int:
        """Those that are kept with their cache."""
        return sum(past.conversation is not None for past in self._past.values())

    def dialogue(self, chat: Chat) -> Dialogue:
        """Raises BadRequest where this model cannot be kept from thinking."""
        thinking = self.thinking if chat.thinking is None else chat.thinking
        if thinking not in self.dialogues:
            raise BadRequest("this model always thinks", "chat_template_kwargs")
        return self.dialogues[thinking]

    async def write(self, chat: Chat, choice: int = 0, on_text: OnText | None = None) -> ChatTurn:
        """The next turn of a chat. Raises BadRequest where the context has no room for it."""
        dialogue = self.dialogue(chat)
        async with self._places:
            past, kept, ids = self._begin(chat, dialogue)
            begun = self._begun(chat, dialogue)
            ids = ids + begun
            room = self.engine.context_limit - len(ids)
            if room < 1:
                raise BadRequest(
                    f"the conversation has {len(ids)} tokens, and the context holds "
                    f"{self.engine.context_limit}",
                    "messages",
                    "context_length_exceeded",
                )
            conversation = past.conversation if past else None
            seed = secrets.randbits(62) if chat.seed is None else chat.seed
            if past and conversation:
                past.conversation = None
                conversation.rewind(kept)
                conversation.reseed(derive_seed(seed, choice))
            else:
                conversation = self.engine.conversation(derive_seed(seed, choice))
            cached = len(conversation.token_ids)
            text = TurnText(
                dialogue.tokenizer,
                chat.stops,
                f"<{dialogue.format.call_tag}>" if chat.tools else "",
                dialogue.opens_thinking,
                dialogue.decode_turn(begun),
            )
            ended = False

            def on_token(token_id: int) -> bool:
                if token_id in dialogue.stop_ids:
                    return False
                nonlocal ended
                ended = text.add(token_id)
                if on_text:
                    thought, content = text.fresh()
                    if thought or content:
                        on_text(thought, content)
                return ended

            sampling = replace(
                chat.sampling,
                stop_ids=dialogue.stop_ids,
                banned_ids=dialogue.banned_ids,
                max_tokens=min(chat.sampling.max_tokens or room, room),
            )
            generation = await conversation.generate(ids[cached:], sampling, on_token)
            turn = _turn(chat, dialogue, text.text, generation, len(ids), cached)
            turn_ids = (*begun, *turn.token_ids)
            self._remember(chat, turn, turn_ids, conversation, cut=ended)
            return turn

    def _begun(self, chat: Chat, dialogue: Dialogue) -> list[int]:
        """The ids that the turn must begin with where a call is demanded."""
        if chat.forced is None:
            return []
        if dialogue.opens_thinking:
            text = "this model always thinks first, so that no call can be forced"
            raise BadRequest(text, "tool_choice")
        return dialogue.begin_call(chat.forced)

    def _begin(self, chat: Chat, dialogue: Dialogue) -> tuple[_Past | None, int, list[int]]:
        """The conversation that the chat goes on with, if it is known, how many of its tokens
        stay, and the prompt's ids."""
        try:
            return self._render(chat, dialogue)
        except TemplateError as error:
            text = f"the model's chat template does not take these messages: {error}"
            raise BadRequest(text, "messages") from None

    def _render(self, chat: Chat, dialogue: Dialogue) -> tuple[_Past | None, int, list[int]]:
        last = max((i for i, said in enumerate(chat.said) if said.role == "assistant"), default=-1)
        reply = chat.said[last + 1 :]
        past = self._past.get(self._key(chat, chat.said[: last + 1])) if last >= 0 else None
        thoughts_stay = (
            not dialogue.thinking
            or dialogue.strips_thinking
            or all(said.role == "tool" for said in reply)
        )
        if past and thoughts_stay and not any(said.role == "system" for said in reply):
            messages = self._messages(reply, dialogue, self._question(chat))
            dropped, shown = dialogue.cut_thoughts(past.turn_ids, messages) or (0, [])
            stays = len(past.token_ids) - dropped
            after = dialogue.after_turn(past.turn_ids, messages)
            return past, stays, [*past.token_ids[:stays], *shown, *after]
        first, *rest = chat.said
        examples = self.examples
        if first.role != "system":
            system, rest = self.system, [*chat.said]
        else:
            system = first.text
            if not chat.tools:  # The examples call tools, which this chat knows nothing of.
                examples = ()
        system = self._with_tools(system, chat, dialogue)
        messages = [
            *([{"role": "system", "content": system}] if system else []),
            *(message for example in examples for message in example),
            *self._messages(rest, dialogue, self._question(chat)),
        ]
        return None, 0, dialogue.prompt(messages, chat.tools)

    def _with_tools(self, system: str, chat: Chat, dialogue: Dialogue) -> str:
        """Tell of the tools where the format leaves that to the system prompt, which is taken to
        do so already if it is the run's own or names them all."""
        fmt = dialogue.format
        if not chat.tools or fmt.tools_section(chat.tools):
            return system
        if system and (system == self.system or all(tool.name in system for tool in chat.tools)):
            return system
        told = fmt.system_prompt(chat.tools)
        return f"{system}\n\n{told}" if system else told

    def _question(self, chat: Chat) -> str | None:
        asked = [said.text for said in chat.said if said.role == "user"]
        return asked[-1] if self.repeat_question else None

    def _messages(
        self, said: Sequence[Said], dialogue: Dialogue, question: str | None
    ) -> list[Message]:
        """As the dialogue's template takes them: results in a row are answered together."""
        fmt, messages, results = dialogue.format, list[Message](), list[str]()
        for index, one in enumerate(said):
            if one.role == "tool":
                results.append(one.text)
                if index + 1 == len(said) or said[index + 1].role != "tool":
                    messages += result_messages(fmt, results, question)
                    results = []
            elif one.role == "assistant":
                calls = [fmt.render_call(call) for call in one.calls]
                content = "\n".join([one.text, *calls] if one.text.strip() else calls)
                messages.append({"role": "assistant", "content": content})
            else:
                messages.append({"role": one.role, "content": one.text})
        return messages

    def _remember(
        self,
        chat: Chat,
        turn: ChatTurn,
        turn_ids: tuple[int, ...],
        conversation: TorchConversation,
        *,
        cut: bool,
    ) -> None:
        """Keep the conversation with its cache, and let those that wait longest go."""
        if cut or not self.idle:
            conversation.close()
            return
        said = (*chat.said, Said("assistant", turn.content, turn.calls))
        key = self._key(chat, said)
        self._forget(key)
        self._past[key] = _Past(list(conversation.token_ids), turn_ids, conversation)
        self._tokens += len(conversation.token_ids)
        kept = [past for past in self._past.values() if past.conversation]
        held = sum(len(past.token_ids) for past in kept)
        for count, past in zip(range(len(kept), 0, -1), kept, strict=True):
            if count > self.idle or held > self.idle_tokens:
                assert past.conversation is not None
                past.conversation.close()
                past.conversation = None
                held -= len(past.token_ids)
        while self._tokens > KEPT_TOKENS:
            self._forget(next(iter(self._past)))

    def _forget(self, key: bytes) -> None:
        past = self._past.pop(key, None)
        if past:
            self._tokens -= len(past.token_ids)
            if past.conversation:
                past.conversation.close()

    def _key(self, chat: Chat, said: Sequence[Said]) -> bytes:
        """What a client sends back of a conversation, without what it may write otherwise."""
        told = json.dumps(
            [
                self.thinking if chat.thinking is None else chat.thinking,
                [(tool.name, tool.description, tool.parameters) for tool in chat.tools],
                [
                    (one.role, one.text.strip(), [(call.name, call.args) for call in one.calls])
                    for one in said
                ],
            ],
            sort_keys=True,
        )
        return hashlib.sha256(told.encode()).digest()


def _turn(
    chat: Chat,
    dialogue: Dialogue,
    text: str,
    generation: Generation,
    prompt_tokens: int,
    cached_tokens: int,
) -> ChatTurn:
    """A turn's parts; one that is no proper call stays text, whatever it looks like."""
    thought, content = split_thought(text, dialogue.opens_thinking)
    content = content or ""
    calls: tuple[ToolCall, ...] = ()
    if chat.tools and generation.finish is Finish.STOP:
        parsed = dialogue.format.parse(text)
        if parsed.kind is TurnKind.CALL:
            calls = parsed.calls
            content = content[: content.index(f"<{dialogue.format.call_tag}>")]
    return ChatTurn(
        content=content,
        thought=thought,
        calls=calls,
        finish="tool_calls" if calls else generation.finish.value,
        token_ids=tuple(generation.token_ids),
        logprobs=tuple(generation.logprobs),
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        think_tokens=dialogue.think_tokens(generation.token_ids),
    )
