"""Two cells on the questions that both have answered: who is better, how surely, and on which.

McNemar's exact test looks at the questions that one of the two alone got right; the interval of the
difference is the paired bootstrap's, with a fixed seed (statistics.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nanoscout.errors import UserError
from nanoscout.evaluation.results_folder import Answers, Asked
from nanoscout.evaluation.statistics import mcnemar, paired_difference


@dataclass(frozen=True, slots=True)
class Pair:
    """What both made of a question."""

    asked: Asked
    answers: tuple[str | None, str | None]
    right: tuple[bool, bool]


def pair(first: Answers, second: Answers) -> list[Pair]:
    """In the order of the first one's questions.

    Raises UserError where no question is in both, where one of the same id is another question, or
    where their graders differ.
    """
    graders = [{str(graded.grader) for graded in of.grades.values()} for of in (first, second)]
    if graders[0] and graders[1] and graders[0] != graders[1]:
        told = " and ".join(", ".join(sorted(names)) for names in graders)
        raise UserError(f"the two were graded by different graders ({told}): no comparison")
    others = {
        asked.question.id: (asked, attempt, graded) for asked, attempt, graded in second.graded
    }
    pairs = []
    for asked, attempt, graded in first.graded:
        if asked.question.id not in others:
            continue
        other, other_attempt, other_graded = others[asked.question.id]
        if other.question != asked.question:
            raise UserError(
                f"question {asked.question.id} is not the same in both; the two were asked "
                "different questions"
            )
        pairs.append(
            Pair(
                asked,
                (attempt.answer, other_attempt.answer),
                (graded.correct, other_graded.correct),
            )
        )
    if not pairs:
        raise UserError("the two have no question in common that both have answered")
    return pairs


def comparison(pairs: Sequence[Pair]) -> dict[str, Any]:
    """{n, first, second, points, ci95, only_first, only_second, p, by_hops, by_topic, differ}.

    `first` and `second` are shares of right answers; `points` is second - first in percentage
    points, with its 95% interval; `differ` lists the questions that one alone got right.
    """
    return {
        **_compared(pairs),
        "by_hops": _split(pairs, [str(of.asked.question.hops) for of in pairs]),
        "by_topic": _split(pairs, [of.asked.topic for of in pairs]),
        "differ": [
            {
                "id": of.asked.question.id,
                "question": of.asked.question.text,
                "gold": of.asked.question.answer,
                "first": of.answers[0],
                "second": of.answers[1],
                "right": "first" if of.right[0] else "second",
            }
            for of in pairs
            if of.right[0] != of.right[1]
        ],
    }


def _compared(pairs: Sequence[Pair]) -> dict[str, Any]:
    first, second = [of.right[0] for of in pairs], [of.right[1] for of in pairs]
    points, interval = paired_difference(first, second)
    only_first = sum(of.right == (True, False) for of in pairs)
    only_second = sum(of.right == (False, True) for of in pairs)
    return {
        "n": len(pairs),
        "first": sum(first) / len(pairs),
        "second": sum(second) / len(pairs),
        "points": points,
        "ci95": list(interval),
        "only_first": only_first,
        "only_second": only_second,
        "p": mcnemar(only_first, only_second),
    }


def _split(pairs: Sequence[Pair], parts: Sequence[str]) -> dict[str, Any]:
    """The same by the parts that have a name."""
    return {
        name: _compared([of for of, part in zip(pairs, parts, strict=True) if part == name])
        for name in sorted(set(parts) - {""})
    }
