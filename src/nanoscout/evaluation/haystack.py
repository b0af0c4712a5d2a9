"""Conversations of a wanted length that show one fact at a wanted depth, behind tool results.

They have an episode's own form, token for token: prompt and question, then one search after
another for the question's words, each answered by the same tool with the next ten pages of a
fictional encyclopedia, in full. One page holds the answer, and no other page says it anywhere.
Since pages do not add up to a wanted length, a few before and after the fact are cut short.
"""

import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from nanoscout.errors import UserError
from nanoscout.questions.question_set import contains
from nanoscout.questions.world import load_world
from nanoscout.questions.world_schema import LITERALS
from nanoscout.recipe import QuestionsSpec, WorldSpec
from nanoscout.records import Hit, Page, Passage, Question, ToolCall
from nanoscout.rollout.environment import Environment
from nanoscout.search.texts import hits_text
from nanoscout.seeds import derive_seed
from nanoscout.tools.search_tools import search_tools
from nanoscout.tools.toolbox import Toolbox

WORLD = WorldSpec(pages=4_000, seed=128, hidden=0.0)
"""Enough pages for 400,000 tokens; another world than any that a recipe of ours trains on."""
MOST_QUESTIONS = 500
HITS = 10
"""Pages in a tool result."""
TOLERANCE = 0.01
"""Share of a length by which a conversation may be shorter; it is never longer."""
CUT = 3
"""Pages that share the last tokens: enough that none of them shrinks to less than its title."""
TRIES = 20


@dataclass(frozen=True)
class Needle:
    """A question, the page that answers it, and pages that do not, in an order of their own."""

    question: Question
    page: Passage
    others: list[Passage]


def needles(count: int) -> list[Needle]:
    """The same ones for every model. Answers are names and years, which nobody guesses.

    Raises UserError where there are not so many.
    """
    spec = QuestionsSpec(world=WORLD, hops={"1hop": 1.0}, train=1, held_out=MOST_QUESTIONS)
    world = load_world(spec, seed=0)
    guessable = {value for values in LITERALS.values() for value in values}
    questions = [question for question in world.held_out if question.answer not in guessable]
    if count > len(questions):
        raise UserError(f"--trials {count}: there are {len(questions)} questions")
    pages = {page.id: page for page in world.passages}
    return [
        Needle(question, pages[question.supporting[0]], _others(question, world.passages))
        for question in questions[:count]
    ]


def _others(question: Question, pages: Sequence[Passage]) -> list[Passage]:
    golds = (question.answer, *question.aliases)
    others = [
        page
        for page in pages
        if page.id not in question.supporting
        and not any(contains(f"{page.title} {page.text}", gold) for gold in golds)
    ]
    random.Random(derive_seed("haystack", question.id)).shuffle(others)
    return others


class Haystack:
    """A search engine that finds given pages in a given order, and previews them in full."""

    name = "haystack"

    def __init__(self, pages: Sequence[Passage] = ()):
        self._pages = pages

    async def search(self, query: str, k: int, page: int = 1) -> list[Hit]:
        return [_hit(found) for found in self._pages[(page - 1) * k : page * k]]

    async def visit(self, url: str, max_chars: int, offset: int = 0) -> Page | None:
        return None


def haystack_toolbox(pages: Sequence[Passage] = ()) -> Toolbox:
    return Toolbox(search_tools(Haystack(pages), HITS, page_chars=1_000))


async def haystack_prompt(
    environment: Environment, needle: Needle, tokens: int, depth: float, reserve: int
) -> list[int]:
    """Ids of a conversation in which the model comes next, `reserve` tokens before it has `tokens`
    (or up to 1% less).

    `depth`: percentage of the other pages' tokens that stand before the needle's page.
    Raises UserError for a length that the prompt and that page alone exceed, or that all pages
    together don't fill.
    """
    question = needle.question
    alone = reserve + len(await _conversation(environment, question, [needle.page]))
    if alone > tokens:
        raise UserError(f"{tokens} tokens hold no haystack: without one there are {alone}")
    filler = _Filler(environment, frame=len(await _exchange(environment, question, (), 2)))
    wanted: float = tokens - alone
    for _ in range(TRIES):
        pages = iter(needle.others)
        before = filler.take(pages, wanted * depth / 100, place=1)
        after = filler.take(pages, wanted - filler.total(before), place=1 + len(before))
        if not after:
            before = filler.take(iter(needle.others), wanted, place=1)
        if next(pages, None) is None:
            raise UserError(f"{tokens} tokens are more than {len(needle.others)} pages have")
        ids = await _conversation(environment, question, [*before, needle.page, *after])
        missing = tokens - reserve - len(ids)
        if 0 <= missing <= TOLERANCE * tokens:
            return ids
        # Costs are estimates: tokens join across the seams between pages.
        wanted += missing - TOLERANCE * tokens / 2
    raise UserError(f"{tokens} tokens hold too few pages to hide one at a depth of {depth:g}%")


async def _conversation(
    environment: Environment, question: Question, pages: Sequence[Passage]
) -> list[int]:
    """The prompt, and as many calls with their results as show all pages."""
    ids = list(environment.prompt_ids(question))
    for number in range(1, -(-len(pages) // HITS) + 1):
        ids += await _exchange(environment, question, pages, number)
    return ids


async def _exchange(
    environment: Environment, question: Question, pages: Sequence[Passage], number: int
) -> list[int]:
    """The call for the `number`th ten pages, and its result."""
    dialogue = environment.dialogue
    later = {"page": number} if number > 1 else {}
    call = ToolCall("web_search", {"query": question.text, **later})
    turn = dialogue.tokenizer.encode(dialogue.format.render_call(call), add_special_tokens=False)
    result = await haystack_toolbox(pages).call(call)
    return [*turn, *dialogue.after_turn(turn, environment.reply(question, [result]))]


class _Filler:
    """Picks pages that fill a number of tokens.

    A page costs its own tokens, and every tenth one the `frame` of another result with its call.
    The needle's page counts as the first, wherever it stands: it alone has a result already.
    """

    def __init__(self, environment: Environment, frame: int):
        self._tokenizer = environment.dialogue.tokenizer
        self._frame = frame
        self._sizes: dict[Passage, int] = {}

    def total(self, pages: Sequence[Passage]) -> int:
        """What pages cost that are all there is besides the needle's."""
        return sum(self._size(page) + self._frame_at(place) for place, page in enumerate(pages, 1))

    def take(self, pages: Iterator[Passage], tokens: float, place: int) -> list[Passage]:
        """The next pages that cost `tokens`, from the given place on; the last ones are cut."""
        taken: list[Passage] = []
        for page in pages:
            tokens -= self._frame_at(place + len(taken))
            if self._size(page) > tokens:
                kept, last = taken[: 1 - CUT], [*taken[1 - CUT :], page]
                share = (tokens + sum(map(self._size, last[:-1]))) / len(last)
                return [*kept, *(cut for page in last if (cut := self._cut(page, share)))]
            taken.append(page)
            tokens -= self._size(page)
        return taken

    def _frame_at(self, place: int) -> int:
        return self._frame if place % HITS == 0 else 0

    def _cut(self, page: Passage, tokens: float) -> Passage | None:
        """The beginning of a page, of `tokens` tokens; None where its title alone has more."""

        def first(characters: int) -> Passage:
            return replace(page, text=page.text[:characters])

        fits = bisect_right(
            range(len(page.text) + 1), tokens, key=lambda count: self._size(first(count))
        )
        return first(fits - 1) if fits else None

    def _size(self, page: Passage) -> int:
        if page not in self._sizes:
            text = hits_text([_hit(page)]) + "\n"
            self._sizes[page] = len(self._tokenizer.encode(text, add_special_tokens=False))
        return self._sizes[page]


def _hit(page: Passage) -> Hit:
    return Hit(page.id, page.title, page.url, page.text, score=0.0)
