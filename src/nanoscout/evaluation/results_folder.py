"""A folder of answers: what was asked, under which conditions, and every conversation.

    FOLDER/conditions.json       what all answers were given under: suite, search, grader, ...
           questions.jsonl       the questions, one a line
           CELL/cell.json        one model with one agent, thinking or not
                attempts.jsonl   its conversations, one a line, each written when it ends
                grades.jsonl     their grades, one a line
           grades.sqlite         what the judge said
           results.json          the figures

Whoever goes on with a folder must mean the same conditions and the same models, by their
checksums; more questions, models and agents may be added. One process writes at a time.
"""

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nanoscout.errors import UserError
from nanoscout.evaluation.attempt import Attempt
from nanoscout.evaluation.grading.graded import Graded
from nanoscout.evaluation.record_log import RecordLog
from nanoscout.files import write_json
from nanoscout.records import Question

CONDITIONS = "conditions.json"
QUESTIONS = "questions.jsonl"
CELL = "cell.json"
RESULTS = "results.json"
LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Asked:
    """One question of the folder."""

    question: Question
    topic: str = ""


@dataclass(frozen=True)
class Cell:
    """A row of the report's tables."""

    model: str
    """What the tables call it."""
    agent: str
    thinking: bool
    checksum: str
    """Of the weights and of the prompt, or the address of the endpoint that has them."""

    @property
    def name(self) -> str:
        """That of its folder."""
        return f"{self.model}--{self.agent}{'--thinking' if self.thinking else ''}"


@dataclass
class Answers:
    """What one cell has answered so far."""

    cell: Cell
    asked: Sequence[Asked]
    attempts: dict[str, Attempt] = field(default_factory=dict)
    """By question id."""
    grades: dict[str, Graded] = field(default_factory=dict)

    @property
    def graded(self) -> list[tuple[Asked, Attempt, Graded]]:
        """In the order of the questions."""
        return [
            (asked, self.attempts[asked.question.id], self.grades[asked.question.id])
            for asked in self.asked
            if asked.question.id in self.grades
        ]


class CellLog:
    """A cell's answers, and the two files that they are kept in."""

    def __init__(self, folder: Path, cell: Cell, asked: Sequence[Asked]):
        self._attempts = RecordLog(folder / "attempts.jsonl", Attempt)
        self._grades = RecordLog(folder / "grades.jsonl", Graded)
        self.answers = Answers(
            cell,
            asked,
            {attempt.question_id: attempt for attempt in self._attempts.records},
            {graded.question_id: graded for graded in self._grades.records},
        )

    def keep_attempt(self, attempt: Attempt) -> None:
        self._attempts.append(attempt)
        self.answers.attempts[attempt.question_id] = attempt

    def keep_grade(self, graded: Graded) -> None:
        self._grades.append(graded)
        self.answers.grades[graded.question_id] = graded


class ResultsFolder:
    """A folder that is being filled; see `filling`."""

    def __init__(self, path: Path, conditions: dict[str, Any], asked: list[Asked]):
        self.path = path
        self.conditions = conditions
        self.asked = asked

    def open_cell(self, cell: Cell) -> CellLog:
        """Raises UserError where a cell of this name was another model's."""
        folder = self.path / cell.name
        known = folder / CELL
        if known.exists():
            if read_json(known) != asdict(cell):
                raise UserError(
                    f"{folder} holds answers of another model of this name (its weights, its "
                    "prompt or its address differ); choose another folder with --out"
                )
        else:
            folder.mkdir(exist_ok=True)
            write_json(known, asdict(cell))
        return CellLog(folder, cell, self.asked)


@contextmanager
def filling(
    path: Path, conditions: dict[str, Any], asked: Sequence[Asked]
) -> Iterator[ResultsFolder]:
    """The folder, new or gone on with, for this process alone.

    Raises UserError for a folder of something else, of other conditions, of other or more
    questions, and for one that another process fills.
    """
    stored = path / CONDITIONS
    try:
        if not stored.exists() and path.exists() and not _is_free(path):
            raise UserError(f"{path} holds something else; choose another folder with --out")
        path.mkdir(parents=True, exist_ok=True)
        lock = open(path / LOCK, "w")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"{path} can't be made: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{path}: another nanoscout eval run is at work there") from None
        if stored.exists():
            _check_conditions(path, read_json(stored), json.loads(json.dumps(conditions)))
        else:
            write_json(stored, conditions)
        log = RecordLog(path / QUESTIONS, Asked)
        _check_questions(path, log.records, asked)
        for more in asked[len(log.records) :]:
            log.append(more)
        yield ResultsFolder(path, conditions, log.records)


def read_results(path: Path) -> tuple[dict[str, Any], list[Answers]]:
    """The conditions and the cells of a folder, in the order of their names; nothing is changed.

    Raises UserError where there are none.
    """
    if not (path / CONDITIONS).exists():
        raise UserError(
            f"{path}: no results here ({CONDITIONS} is missing); see nanoscout eval run"
        )
    asked = RecordLog(path / QUESTIONS, Asked).records
    cells = [
        CellLog(found.parent, Cell(**read_json(found)), asked).answers
        for found in sorted(path.glob(f"*/{CELL}"))
    ]
    if not cells:
        raise UserError(f"{path}: nothing was answered here yet")
    return read_json(path / CONDITIONS), cells


def _is_free(path: Path) -> bool:
    return path.is_dir() and {entry.name for entry in path.iterdir()} <= {LOCK}


def _check_conditions(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for key in dict.fromkeys([*before, *now]):
        if before.get(key) != now.get(key):
            raise UserError(
                f"{path} holds answers under other conditions ({key}: {_short(before.get(key))} "
                f"there, {_short(now.get(key))} now); choose another folder with --out"
            )


def _check_questions(path: Path, before: Sequence[Asked], now: Sequence[Asked]) -> None:
    if len(before) > len(now):
        raise UserError(
            f"{path} holds {len(before)} questions; ask for as many or more (--questions), or "
            "choose another folder with --out"
        )
    for old, new in zip(before, now, strict=False):
        if old != new:
            raise UserError(
                f"{path} holds other questions ({old.question.id} there, {new.question.id} now, or "
                "changed in text or answer); choose another folder with --out"
            )


def read_json(path: Path) -> dict[str, Any]:
    """An object. Raises UserError for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} holds something else")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:80]}…"
