"""Figures over graded answers: deterministic shares, and SimpleQA's three of a judge.

SimpleQA's (Wei et al. 2024, arXiv 2411.04368) are the share of correct answers, the share of
correct ones among those attempted, and the harmonic mean of the two, the F-score.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from nanoscout.evaluation.grading.graded import Graded, Grader
from nanoscout.records import Grade


@dataclass(frozen=True, slots=True)
class Judged:
    """Counts of a judge's grades."""

    correct: int
    incorrect: int
    not_attempted: int

    @property
    def n(self) -> int:
        return self.correct + self.incorrect + self.not_attempted

    @property
    def correct_share(self) -> float:
        return self.correct / self.n if self.n else 0.0

    @property
    def correct_given_attempted(self) -> float:
        """0 where nothing was attempted."""
        attempted = self.correct + self.incorrect
        return self.correct / attempted if attempted else 0.0

    @property
    def f_score(self) -> float:
        """Harmonic mean of `correct_share` and `correct_given_attempted`; 0 where both are."""
        total = self.correct_share + self.correct_given_attempted
        return 2 * self.correct_share * self.correct_given_attempted / total if total else 0.0


@dataclass(frozen=True, slots=True)
class Figures:
    """Shares in [0, 1] over n answers, all graded by the same grader."""

    n: int
    grader: Grader
    correct: float
    """What the grader says."""
    exact: float
    f1: float
    contains: float
    judged: Judged | None
    """None where the grader is no judge."""


def figures(graded: Sequence[Graded]) -> Figures:
    """Raises ValueError for no answers, and for those of different graders."""
    graders = {answer.grader for answer in graded}
    if len(graders) != 1:
        raise ValueError(f"need answers of one grader, got {sorted(map(str, graders))}")
    n, (grader,) = len(graded), graders
    return Figures(
        n=n,
        grader=grader,
        correct=sum(answer.correct for answer in graded) / n,
        exact=sum(answer.exact for answer in graded) / n,
        f1=sum(answer.f1 for answer in graded) / n,
        contains=sum(answer.contains for answer in graded) / n,
        judged=_judged(graded) if graded[0].grade is not None else None,
    )


def _judged(graded: Sequence[Graded]) -> Judged:
    grades = [answer.grade for answer in graded]
    return Judged(*(grades.count(g) for g in (Grade.CORRECT, Grade.INCORRECT, Grade.NOT_ATTEMPTED)))
