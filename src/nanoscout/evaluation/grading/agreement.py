"""How far a judge agrees with exact match, and the answers on which they differ.

Exact match misses right answers in other words; a judge sees those, and makes mistakes of its own.
Neither is the truth, so the differences are listed to be read: what exact match alone calls right
is most likely the judge's mistake, and what the judge alone calls right shows whether the judge is
lenient or exact match strict.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from nanoscout.evaluation.grading.graded import Graded


@dataclass(frozen=True, slots=True)
class Agreement:
    n: int
    share: float
    """Of the answers that both call right, or neither does."""
    kappa: float | None
    """Cohen's (1960): the share beyond what chance alone would give, at most 1; None where one of
    them calls all answers the same, so that chance gives as much."""
    only_judge: tuple[str, ...]
    """Ids of the questions whose answer the judge alone calls right."""
    only_exact: tuple[str, ...]
    """Ids of those whose answer exact match alone calls right."""


def agreement(graded: Sequence[Graded]) -> Agreement:
    """Of a judge's CORRECT with exact match. Raises ValueError for none, or without a judge."""
    if not graded or any(answer.grade is None for answer in graded):
        raise ValueError("agreement needs answers, each with a judge's grade")
    n = len(graded)
    only_judge = [answer.question_id for answer in graded if answer.correct and not answer.exact]
    only_exact = [answer.question_id for answer in graded if answer.exact and not answer.correct]
    share = 1 - (len(only_judge) + len(only_exact)) / n
    judge_right = sum(answer.correct for answer in graded) / n
    exact_right = sum(answer.exact for answer in graded) / n
    chance = judge_right * exact_right + (1 - judge_right) * (1 - exact_right)
    constant = {judge_right, exact_right} & {0.0, 1.0}
    return Agreement(
        n=n,
        share=share,
        kappa=None if constant else (share - chance) / (1 - chance),
        only_judge=tuple(only_judge),
        only_exact=tuple(only_exact),
    )
