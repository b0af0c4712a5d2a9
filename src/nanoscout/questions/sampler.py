"""Questions in a fixed mix of hop types: an endless stream for training, a selection to evaluate.

Hop types take turns so that after any number of questions each has had its share to within less
than one question (earliest deadline first: Baruah et al. 1996, "Proportionate progress"). Chance
only orders the questions of one hop type, anew in every pass over them. So the n-th question is a
pure function of the questions, the mix, the seed and n.
"""

import itertools
import math
import random
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction

from nanoscout.errors import UserError
from nanoscout.recipe import HopType
from nanoscout.records import Question
from nanoscout.seeds import derive_seed

Mix = Mapping[str, float] | Mapping[HopType, float]


class QuestionStream:
    """Training questions without end.

    `mix` maps hop types to positive weights; those of types that `questions` lack are ignored.
    Raises UserError where no question has any of the types.
    """

    def __init__(self, questions: Sequence[Question], mix: Mix, seed: int):
        self._groups = _by_hop_type(questions, mix)
        self._weights = _whole_weights(mix, self._groups)
        self._seed = seed
        self._pass: dict[str, tuple[int, list[Question]]] = {}
        self.cursor = 0

    @property
    def cursor(self) -> int:
        """How many questions came before the next one; may be set, forwards or back."""
        return self._cursor

    @cursor.setter
    def cursor(self, cursor: int) -> None:
        self._cursor = cursor
        self._turns = _turns(self._weights, cursor)

    def next(self) -> Question:
        hop_type, earlier = next(self._turns)
        self._cursor += 1
        number, place = divmod(earlier, len(self._groups[hop_type]))
        if self._pass.get(hop_type, (-1,))[0] != number:
            order = _shuffled(self._groups[hop_type], self._seed, hop_type, number)
            self._pass[hop_type] = number, order
        return self._pass[hop_type][1][place]


def select(questions: Sequence[Question], mix: Mix, n: int, seed: int) -> list[Question]:
    """`n` different questions in the mix, interleaved so that a prefix has the same mix.

    A hop type with fewer questions than its share gives all it has, and no other type fills in.
    Raises UserError where no question has any of the types.
    """
    groups = {
        hop_type: _shuffled(group, seed, hop_type, 0)
        for hop_type, group in _by_hop_type(questions, mix).items()
    }
    turns = itertools.islice(_turns(_whole_weights(mix, groups), 0), n)
    return [groups[hop][place] for hop, place in turns if place < len(groups[hop])]


def _by_hop_type(questions: Sequence[Question], mix: Mix) -> dict[str, list[Question]]:
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.hop_type, []).append(question)
    wanted = {hop_type: groups[hop_type] for hop_type in sorted(mix) if hop_type in groups}
    if not wanted:
        raise UserError(
            f"hops: no question is {_listed(mix)}; this source has {_listed(groups) or 'none'}: "
            "name some of these in questions.hops or in the stage's hops"
        )
    return wanted


def _listed(hop_types: Iterable[str]) -> str:
    return " or ".join(sorted(hop_types))


def _whole_weights(mix: Mix, there: Container[str]) -> dict[str, int]:
    """The smallest integers in the proportions of the mix (0.1 is a tenth), for those `there`."""
    exact = {hop: Fraction(str(weight)) for hop, weight in sorted(mix.items()) if hop in there}
    unit = Fraction(
        math.gcd(*(weight.numerator for weight in exact.values())),
        math.lcm(*(weight.denominator for weight in exact.values())),
    )
    return {hop_type: int(weight / unit) for hop_type, weight in exact.items()}


def _turns(weights: Mapping[str, int], start: int) -> Iterator[tuple[str, int]]:
    """From position `start` on: whose turn it is, and how many turns that type had before.

    With w of W the weight of a type, its turn k (from 0) falls into positions
    [floor(k W / w), ceil((k + 1) W / w)). The pattern has period W.
    """
    total = sum(weights.values())
    cycles = start // total
    turns = {hop_type: cycles * weight for hop_type, weight in weights.items()}

    def deadline(hop_type: str) -> int:
        return -(-(turns[hop_type] + 1) * total // weights[hop_type])

    for position in itertools.count(cycles * total):
        released = [hop for hop in weights if turns[hop] * total < weights[hop] * (position + 1)]
        hop_type = min(released, key=deadline)
        if position >= start:
            yield hop_type, turns[hop_type]
        turns[hop_type] += 1


def _shuffled(group: Sequence[Question], seed: int, hop_type: str, number: int) -> list[Question]:
    """The order of pass `number` over the questions of one hop type."""
    rng = random.Random(derive_seed("questions", seed, hop_type, number))
    return rng.sample(group, len(group))
