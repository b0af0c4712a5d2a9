"""Splitting the questions of files into disjoint ones for training, evaluation and examples."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence

from nanoscout.errors import UserError
from nanoscout.questions.quota import take_quotas
from nanoscout.questions.sampler import select
from nanoscout.recipe import QuestionsSpec
from nanoscout.records import Question

EXAMPLES = 8
"""At most so many training questions are set aside for worked examples."""

HELD_OUT_SHARE = 5
"""Without a file of held-out questions, one in so many may be held out."""

Key = tuple[str, ...]
log = logging.getLogger(__name__)


def split_questions(
    questions: Sequence[Question],
    held_out: Sequence[Question] | None,
    spec: QuestionsSpec,
    seed: int,
) -> tuple[list[Question], list[Question], list[Question]]:
    """Training, held-out and example questions, the first two no more than the recipe asks for.

    `held_out` loses what is also in `questions`, by id or text. None splits it off `questions`;
    then a training question that shares an id, its text or a hop with it is left out. With quotas
    the sampler of questions/quota.py takes the training questions, and examples are drawn from
    those that it leaves.
    """
    if held_out is None:
        held_out = _hold_out(questions, spec, seed)
        train = _without(questions, held_out, _id_text_and_hops)
    else:
        train = list(questions)
        fresh = _without(held_out, train, _id_and_text)
        if len(fresh) < len(held_out):
            log.info(
                "%d held-out questions are also in train: left out", len(held_out) - len(fresh)
            )
        held_out = select(fresh, spec.hops, spec.held_out, seed) if fresh else []
    if not held_out or len(train) < 2:
        raise UserError(
            f"{spec.path}: too few different questions to train on and to hold out; "
            "add some, or name others in questions.held_out_path"
        )
    if spec.quotas:
        taken = take_quotas(train, spec.quotas)
        left = _without(train, taken, _id_and_text)
        each = dict.fromkeys((question.hop_type for question in left), 1.0)
        return taken, held_out, select(left, each, EXAMPLES, seed) if left else []
    each = dict.fromkeys((question.hop_type for question in train), 1.0)
    examples = select(train, each, min(EXAMPLES, len(train) // 2), seed)
    train = _without(train, examples, _id_and_text)
    return select(train, _proportions(train), spec.train, seed), held_out, examples


def _hold_out(questions: Sequence[Question], spec: QuestionsSpec, seed: int) -> list[Question]:
    """The recipe's mix, out of the same share of each hop type, so that no type is used up."""
    there = Counter(question.hop_type for question in questions)
    sizes = {hop_type: max(1, there[hop_type]) for hop_type in spec.hops}
    n = max(1, sum(there[hop_type] for hop_type in spec.hops) // HELD_OUT_SHARE)
    pool = select(questions, sizes, n, seed)
    return select(pool, spec.hops, spec.held_out, seed)


def _proportions(questions: Sequence[Question]) -> dict[str, float]:
    return dict(Counter(question.hop_type for question in questions))


def _without(
    questions: Sequence[Question],
    others: Sequence[Question],
    keys: Callable[[Question], set[Key]],
) -> list[Question]:
    """Those of `questions` that have no key in common with `others`."""
    taken = {key for other in others for key in keys(other)}
    return [question for question in questions if taken.isdisjoint(keys(question))]


def _id_and_text(question: Question) -> set[Key]:
    return {("id", question.id), ("text", " ".join(question.text.casefold().split()))}


def _id_text_and_hops(question: Question) -> set[Key]:
    hops = {("hop", step.question.casefold(), step.answer) for step in question.steps}
    return _id_and_text(question) | hops
