"""A Qwen3 of 0.4 M parameters that calls tools: taught from a guide's conversations.

The architecture and the chat template are Qwen3's, the tokenizer its pipeline with a small
vocabulary. nanoscout itself trains by reinforcement alone; this is how an experiment gets a model
small enough for its machine that finds its way through conversations of 40,960 tokens. It is taught
on short windows, in which the text further back counts as if it were that long.
"""

import math
import random
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from tokenizers import AddedToken, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Tokenizer, Qwen3Config

from nanoscout.errors import UserError
from nanoscout.models.tiny import QWEN3, SPECIAL, TEXT, THINK
from nanoscout.records import Trajectory

TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
"""Tokens of Qwen3's own, as are those of THINK."""
CONTEXT = 40_960
SHARPNESS = 2.0
"""Of normalised queries and keys at the start: with 1, the largest score of a head is the square
root of its width, less than it takes to find one token among 40,960."""
SURENESS = 2.0
"""What its logits are multiplied by in the end: one slip in a hundred turns is one too many."""
NEAR = 128
"""Tokens in which stands what a turn depends on."""
TRIES = 5
"""At a lesson."""


@dataclass(frozen=True)
class Lesson:
    """Steps on windows of a few tokens, which stand for up to `text` tokens, for all of them every
    other time: those further back than NEAR count as so many more, and lie as far back."""

    tokens: int
    windows: int
    steps: int
    text: int
    enough: float
    """The loss of a sampled token with which it is learnt: of the last windows, or, where there is
    far text, of a whole conversation."""


def tokenizer(words: Iterable[str]) -> Qwen2Tokenizer:
    """Has each of `words` as one token, besides the bytes and what conversations are full of."""
    blank = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(SPECIAL)},
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
    )
    trained = blank.train_new_from_iterator(
        [*words, *TEXT.split()] * 2,
        vocab_size=4_096,
        new_special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.add_tokens([AddedToken(token, normalized=False) for token in (*THINK, *TAGS)])
    trained.chat_template = QWEN3
    return trained


def untaught(tokenizer: Qwen2Tokenizer) -> PreTrainedModel:
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        rope_theta=1e4,
        tie_word_embeddings=True,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, weight in model.named_parameters():
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            torch.nn.init.constant_(weight, SHARPNESS)
    return model


def teach(
    model: PreTrainedModel,
    conversations: Sequence[Trajectory],
    lessons: Sequence[Lesson],
    alike: Sequence[Sequence[int]],
    lr: float = 3e-3,
) -> None:
    """Fit the sampled tokens, lesson by lesson, each of them again until it is learnt.

    In every window the token ids of a kind, `alike`, change places at random: what a conversation
    says cannot be learnt by heart then, only how a turn follows from what stands before it.
    Raises UserError where a lesson is never learnt.
    """
    rng = random.Random(0)
    longest = max(conversations, key=lambda conversation: len(conversation.token_ids))
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    loss = math.inf
    for lesson in lessons:
        for _ in range(TRIES):
            loss = _take(lesson, model, conversations, alike, optimiser, lr, rng)
            if lesson.text > lesson.tokens:
                loss = whole_loss(model, longest)
            print(f"{lesson.steps} steps for {lesson.text:,} tokens: loss {loss:.4f}", flush=True)
            if loss <= lesson.enough:
                break
        else:
            raise UserError(f"not learnt in {TRIES} tries, the loss is {loss:.3f}: {lesson}")
    with torch.no_grad():
        model.get_submodule("model.norm").get_parameter("weight").mul_(SURENESS)


@torch.no_grad()
def whole_loss(model: PreTrainedModel, conversation: Trajectory) -> float:
    """Of a sampled token of a whole conversation. Windows say little of it: one token among 40,960
    that looks like the one that is sought is enough for a slip."""
    ids = torch.tensor(conversation.token_ids)
    sampled = torch.tensor([i for turn in conversation.turns for i in range(turn.start, turn.end)])
    hidden = model.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0]
    logits = model.get_output_embeddings()(hidden[sampled - 1])
    return cross_entropy(logits, ids[sampled]).item()


def _take(
    lesson: Lesson,
    model: PreTrainedModel,
    conversations: Sequence[Trajectory],
    alike: Sequence[Sequence[int]],
    optimiser: torch.optim.Optimizer,
    lr: float,
    rng: random.Random,
) -> float:
    """The lesson once, at a rate that falls to 0. Returns the mean loss of its last steps."""
    losses = []
    for step in range(lesson.steps):
        optimiser.param_groups[0]["lr"] = lr * min((step + 1) / 20, 1.0 - step / lesson.steps)
        ids, sampled = windows(conversations, lesson, rng)
        ids = with_places_changed(ids, alike, len(model.get_input_embeddings().weight), rng)
        near_or_far = rng.choice((rng.random(), 1.0))
        text = round(lesson.tokens * (lesson.text / lesson.tokens) ** near_or_far)
        positions = torch.arange(lesson.tokens)
        positions[-NEAR:] += rng.randint(0, text - lesson.tokens)
        output = model.base_model(
            input_ids=ids,
            position_ids=positions[None],
            attention_mask=counted(lesson.tokens, text),
            use_cache=False,
        )
        wanted = sampled[:, 1:]
        logits = model.get_output_embeddings()(output.last_hidden_state[:, :-1][wanted])
        loss = cross_entropy(logits, ids[:, 1:][wanted])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    return statistics.mean(losses[-20:])


def counted(length: int, text: int) -> torch.Tensor:
    """The causal mask [1, 1, length, length] by which tokens further back than NEAR count as often
    as makes `length` tokens `text`."""
    times = (text - NEAR) / (length - NEAR) if text > length else 1.0
    distance = torch.arange(length)[:, None] - torch.arange(length)
    mask = torch.where(distance < NEAR, 0.0, math.log(times))
    return mask.masked_fill(distance < 0, -math.inf)[None, None]


def windows(
    conversations: Sequence[Trajectory], lesson: Lesson, rng: random.Random
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and flags [windows, tokens]; each window ends with a turn, whose tokens are flagged.

    What is further back than NEAR ends with a turn too, of whichever conversation: far text is full
    of calls and results, which a window of neighbours, nearly all of them a page's prose, hardly
    ever shows.
    """
    ids, flags = [], []
    for _ in range(lesson.windows):
        conversation, another = rng.choice(conversations), rng.choice(conversations)
        turn, earlier = rng.choice(conversation.turns), rng.choice(another.turns)
        near = conversation.token_ids[: turn.end][-NEAR:]
        text = another.token_ids + another.token_ids[: earlier.end] + near
        ids.append(text[-lesson.tokens :])
        flags.append([lesson.tokens - i <= turn.end - turn.start for i in range(lesson.tokens)])
    return torch.tensor(ids), torch.tensor(flags)


def with_places_changed(
    ids: torch.Tensor, alike: Sequence[Sequence[int]], vocabulary: int, rng: random.Random
) -> torch.Tensor:
    """`ids` [windows, tokens], with another permutation of each kind of ids in each window."""
    instead = torch.arange(vocabulary).repeat(len(ids), 1)
    for row in instead:
        for kind in alike:
            row[list(kind)] = torch.tensor(rng.sample(kind, len(kind)))
    return instead.gather(1, ids)
