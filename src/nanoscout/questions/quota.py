"""The report's sampler: so many questions of each hop type, evenly spaced over the sorted ids.

Sorting by id and taking every so many-th question needs no random numbers, so the same file gives
the same questions in the same order on every machine. Jan-nano's 10,325 questions are MuSiQue-Ans'
train split under the quotas of recipes/jan-nano.toml; the authors' public code samples a smaller
set in this way.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from nanoscout.errors import UserError
from nanoscout.questions.sampler import Mix
from nanoscout.recipe import HopType, QuestionsSpec
from nanoscout.records import Question

OFFICIAL_TRAIN: dict[str, int] = {"2hop": 14_376, "3hop1": 3_737, "3hop2": 650, "4hop": 1_175}
"""Questions of MuSiQue-Ans' train split. 3hop2 is what the report's 2,150 three-hop questions
imply beside 1,500 of 3hop1; of the three kinds of 4hop only the sum is published, and the report
uses them all."""


def take_quotas(questions: Sequence[Question], quotas: Mapping[HopType, int]) -> list[Question]:
    """At most `quotas[h]` questions of each hop type h, by hop type and within it by id.

    Of n questions with a quota k < n the ones at i * n // k for i = 0 to k - 1; all where n <= k.
    Raises UserError where no question is of any of the types.
    """
    taken = []
    for hop_type, quota in sorted(quotas.items()):
        there = sorted((q for q in questions if q.hop_type == hop_type), key=lambda q: q.id)
        count = min(quota, len(there))
        taken += [there[index * len(there) // count] for index in range(count)]
    if not taken:
        raise UserError(f"questions.quotas: no question is {' or '.join(sorted(quotas))}")
    return taken


def default_mix(spec: QuestionsSpec, questions: Sequence[Question]) -> Mix:
    """The mix of a stage that names none: with quotas every question equally often, else `hops`."""
    if not spec.quotas:
        return spec.hops
    there = Counter(question.hop_type for question in questions)
    return {hop_type: there[hop_type] for hop_type in spec.quotas if there[hop_type]}
