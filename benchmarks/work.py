"""The rollouts' work: search conversations of fixed lengths, the same tokens for every engine.

Prompts are the quickstart's, worked examples and all, about questions of the generated world;
groups of eight ask the same question. After each turn but the last comes a real result of a real
search, as the model would read it. What is sampled in between is as long as real calls and answers
are (32 and 14 tokens on average), whatever it says: no token ends a turn early.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nanoscout.questions import load_questions
from nanoscout.recipe import Recipe
from nanoscout.recipe_file import load_recipe
from nanoscout.records import Question, ToolCall
from nanoscout.setting import Setting, make_setting, prepare_folder

QUICKSTART = Path(__file__).parents[1] / "recipes" / "quickstart.toml"
GROUP = 8
TURNS = (2, 3, 4)
CALL_TOKENS, ANSWER_TOKENS = (26, 38), (10, 18)


@dataclass(frozen=True)
class World:
    """The quickstart's world, with a model in it."""

    recipe: Recipe
    setting: Setting
    questions: Sequence[Question]


@dataclass(frozen=True)
class Turn:
    given: list[int]
    count: int
    """Tokens to be sampled after the given ones."""


def open_world(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *overrides: str
) -> World:
    recipe = load_recipe(QUICKSTART, list(overrides))
    questions = load_questions(recipe.questions, recipe.seed)
    prepare_folder(recipe, folder / "world", questions)
    setting = make_setting(recipe, folder / "world", model, tokenizer)
    one_hop = [question for question in questions.train if question.hops == 1]
    return World(recipe, setting, one_hop)


def conversations(world: World, count: int) -> list[list[Turn]]:
    """`count` conversations of two to four turns, in groups that ask the same question."""
    rng = random.Random(count)
    environment = world.setting.environment

    def converse(number: int) -> list[Turn]:
        question = world.questions[number // GROUP]
        turns = TURNS[number % len(TURNS)]
        made = []
        given = environment.prompt_ids(question)
        for turn in range(turns - 1):
            made.append(Turn(given, rng.randint(*CALL_TOKENS)))
            # The first search is for the question; what a later one asks is a conversation's own.
            query = question if turn == 0 else world.questions[count + number * max(TURNS) + turn]
            call = ToolCall("web_search", {"query": query.text})
            result = loop.run_until_complete(environment.toolbox.call(call))
            given = environment.dialogue.after_turn([], environment.reply(question, [result]))
        return [*made, Turn(given, rng.randint(*ANSWER_TOKENS))]

    loop = asyncio.new_event_loop()
    try:
        return [converse(number) for number in range(count)]
    finally:
        loop.close()


def sampled_tokens(work: Sequence[Sequence[Turn]]) -> int:
    return sum(turn.count for turns in work for turn in turns)


def longest(work: Sequence[Sequence[Turn]]) -> int:
    """Tokens of the longest conversation."""
    return max(sum(len(turn.given) + turn.count for turn in turns) for turns in work)
