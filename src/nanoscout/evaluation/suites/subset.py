"""A fair sample of so many questions, the same on every machine.

Questions of one kind (hop type and topic) are put into an order that depends on the seed and their
ids alone. Then all kinds are interleaved so that after any number of questions each has had its
share, to within about one question. Taking the first N is therefore a stratified sample; a larger N
only adds to it, so a run can be extended; and a run that was cut short has been fair so far.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from nanoscout.records import Question
from nanoscout.seeds import derive_seed


def fair_order(
    questions: Sequence[Question], topics: Mapping[str, str], seed: int
) -> list[Question]:
    """All questions, interleaved: number k of a kind's n stands at (k + 1/2) / n of the way."""
    kinds: dict[tuple[str, str], list[tuple[int, Question]]] = defaultdict(list)
    for question in questions:
        lot = derive_seed("suite", seed, question.id)
        kinds[question.hop_type, topics.get(question.id, "")].append((lot, question))
    places = []
    for kind in kinds.values():
        kind.sort(key=lambda drawn: (drawn[0], drawn[1].id))
        places += [((k + 0.5) / len(kind), *drawn) for k, drawn in enumerate(kind)]
    places.sort(key=lambda place: (place[0], place[1], place[2].id))
    return [question for _, _, question in places]
