"""The grade of one answer: what the deterministic measures say, and what a judge says.

Which grader made a number is part of the number: an evaluation whose judge was another model, or
was told other rules, is another evaluation.
"""

from dataclasses import dataclass

from nanoscout.answers import contains, exact_match, f1
from nanoscout.judge.grading import VERSION
from nanoscout.judge.judge import Judge
from nanoscout.records import Grade, Question


@dataclass(frozen=True, slots=True)
class Grader:
    """Who says whether an answer is right."""

    name: str
    """`exact`: exact match after normalisation (answers.py); `judge`: a language model."""
    model: str = ""
    """The judge's model."""
    wording: str = ""
    """Version of the rules that the judge is told (judge/grading.py)."""

    def __str__(self) -> str:
        return f"{self.name} {self.model}, rules {self.wording}" if self.model else self.name


EXACT = Grader("exact")


@dataclass(frozen=True, slots=True)
class Graded:
    question_id: str
    exact: bool
    """The answer equals the gold one or an alias, both normalised."""
    f1: float
    """Token F1 against the best of gold and aliases, in [0, 1]."""
    contains: bool
    """The gold answer or an alias stands somewhere in the answer; a list of candidates passes."""
    grade: Grade | None
    """The judge's; None where the grader is no judge."""
    grader: Grader

    @property
    def correct(self) -> bool:
        """What the grader says."""
        return self.exact if self.grade is None else self.grade is Grade.CORRECT


def grader_of(judge: Judge | None) -> Grader:
    return EXACT if judge is None else Grader("judge", judge.model, VERSION)


async def grade_answer(question: Question, answer: str | None, judge: Judge | None) -> Graded:
    """The grade of an answer, None where none was given; never right, and not attempted.

    The judge, where there is one, must be open; it is asked once for the same answer, ever
    (judge/cache.py). Raises JudgeUnavailable and UserError as `Judge.grade` does: an answer that a
    judge could not grade is not graded by anything else.
    """
    said = answer or ""
    golds = (question.answer, *question.aliases)
    return Graded(
        question_id=question.id,
        exact=exact_match(said, golds),
        f1=f1(said, golds),
        contains=contains(said, golds),
        grade=await judge.grade(question, said) if judge else None,
        grader=grader_of(judge),
    )
