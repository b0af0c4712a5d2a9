"""A world in which a question needs as many calls as one likes, and a guide who knows the way.

A road leads from town to town. Ten pages are about each town; each of them is long and names at
its very end the next town of the road; the last town's say that its end is red or blue, but not
which. Whoever is asked where a road ends has to search for a town, read one of its pages, search
for the next town, and so on: how far from the end a question begins decides how long its
conversation gets. An answer is right half the time, so that the rollouts of a group differ, as
dynamic sampling wants it.

Pages and questions are files in MuSiQue's format. The guide is an engine that walks each road as a
model should: its conversations, had with the product's own episodes and tools, are what a tiny
model is taught from.
"""

import itertools
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanoscout.dialogue.template import Dialogue
from nanoscout.engine.protocol import Finish, Generation, OnToken, Sampling
from nanoscout.records import ToolCall

PAGES = 10
"""Pages about a town."""
PROSE = """river stone bridge market tower garden church school forest valley winter summer harvest
merchant weaver miller teacher council charter century village castle harbour meadow orchard chapel
gate wall well mill barn field road north south east west old new long broad narrow high low quiet
famous small great wooden built found held kept known called near under over between before after
many some few every other first last stood grew fell rose burned moved opened closed painted carved
traded lived worked came went with from into along beside of the and a in to was were had has its
their this that which where when while until since"""
"""The words that pages are filled with."""
ENDS = ("red", "blue")
FRAMES = [
    "<tool", "<answer", "</", "tool", '>{"', '":', ' "', ' {"', '",', '"}}', '"}}</', "name", "url",
    "query", "args", "arguments", "web", "_search", "visit", "https", "://", "en", ".wikipedia",
    ".org", "/wiki", "result", "answer", "The", " goes", " is", " town", "red", "blue", " red",
    " blue", "Its", " end", " or", "\n\n",
]  # fmt: skip
"""Further pieces of text that are one token each."""


@dataclass(frozen=True)
class Roads:
    """How many roads, of how many towns; the questions begin so many towns before the end."""

    roads: int
    """To train on; one more, a short one, is held out."""
    near: int
    """Towns that a question of the hop type 2hop needs."""
    far: int
    """Towns that one of the hop type 4hop1 needs: the whole road."""
    page_words: int
    seed: int = 0

    def names(self) -> list[list[str]]:
        """The towns of each road, in order; all names differ."""
        rng = random.Random(self.seed)
        syllables = ["".join(pair) for pair in itertools.product("bdfgklmnprstvz", "aeiou")]
        names = [
            (first + second + end).capitalize()
            for (first, second), end in zip(
                itertools.permutations(syllables, 2), itertools.cycle("lnr")
            )
        ]
        chosen = iter(rng.sample(names, self.roads * self.far + self.near))
        lengths = [self.far] * self.roads + [self.near]
        return [list(itertools.islice(chosen, length)) for length in lengths]

    def write(self, folder: Path) -> None:
        """pages.jsonl, train.jsonl and held_out.jsonl."""
        rng = random.Random(self.seed)
        near, far, pages = [], [], []
        for number, towns in enumerate(self.names()):
            pages += [
                page for index in range(len(towns)) for page in self._pages(towns, index, rng)
            ]
            end = rng.choice(ENDS)
            near.append(_question(f"2hop__{number}", towns[-self.near], end, steps=2))
            far.append(_question(f"4hop1__{number}", towns[0], end, steps=4))
        files = {
            "train": near[:-1] + far[:-1],
            "held_out": near[-1:],
            "pages": [{"paragraphs": pages}],
        }
        folder.mkdir(parents=True, exist_ok=True)
        for name, records in files.items():
            lines = [json.dumps(record) + "\n" for record in records]
            (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")

    def vocabulary(self) -> Iterator[str]:
        """Each word that a tokenizer should have a token for."""
        yield from (word for road in self.names() for word in road)
        yield from FRAMES
        yield from (" " + word for word in PROSE.split())

    def _pages(self, towns: Sequence[str], index: int, rng: random.Random) -> list[dict[str, Any]]:
        name = towns[index]
        last = index + 1 == len(towns)
        onward = "Its end is red or blue." if last else f'The road goes on to "{towns[index + 1]}".'
        return [
            {
                "idx": number,
                "title": f"{name} {number}",
                "paragraph_text": f"{name} is a town. {_prose(self.page_words, rng)} {onward}",
            }
            for number in range(PAGES)
        ]


def _prose(words: int, rng: random.Random) -> str:
    return " ".join(rng.choices(PROSE.split(), k=words)) + "."


def _question(id: str, start: str, answer: str, steps: int) -> dict[str, Any]:
    return {
        "id": id,
        "question": f'Where does the road end that goes on to "{start}".',
        "answer": answer,
        "question_decomposition": [{"question": "the road", "answer": answer}] * steps,
        "paragraphs": [],
    }


class Guide:
    """An engine that reads what it is given and writes the turn that leads on."""

    def __init__(self, dialogue: Dialogue, context: int):
        self.dialogue = dialogue
        self.context_limit = context

    def conversation(self, seed: int) -> "Walk":
        return Walk(self.dialogue, random.Random(seed), ENDS[seed % 2])

    def share_prefix(self, prefix_ids: Sequence[int]) -> None:
        pass


@dataclass
class Walk:
    dialogue: Dialogue
    rng: random.Random
    answer: str

    async def generate(
        self, new_ids: Sequence[int], sampling: Sampling, on_token: OnToken | None = None
    ) -> Generation:
        tokenizer = self.dialogue.tokenizer
        turn = self._turn(tokenizer.decode(list(new_ids)))
        ids = [*tokenizer.encode(turn, add_special_tokens=False), tokenizer.eos_token_id]
        return Generation(ids, [0.0] * len(ids), Finish.STOP, policy_version=0)

    def _turn(self, read: str) -> str:
        write = self.dialogue.format
        if "Its end is" in read:
            return write.render_answer(self.answer)
        if hits := re.findall(r"(https://\S+/\w+_)\d\n", read):
            url = hits[-1] + str(self.rng.randrange(PAGES))
            return write.render_call(ToolCall("visit", {"url": url}))
        query = re.findall(r'goes on to "(\w+)"', read)[-1]
        return write.render_call(ToolCall("web_search", {"query": query}))

    def rewind(self, length: int) -> None:
        """A walk remembers nothing."""

    def close(self) -> None:
        pass
