"""A report on folders of results: what it says, whatever it is written in.

For each folder: under which conditions was asked, a table of model x agent x thinking with
intervals and costs, how conversations ended, the shares by topic, what a judge's grades come to,
and, where wanted, a few conversations of each cell.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanoscout.evaluation.attempt import Attempt
from nanoscout.evaluation.cell_bars import draw_cells
from nanoscout.evaluation.cell_figures import cell_figures
from nanoscout.evaluation.cell_table import NAMES, NOTHING, columns, name_of, row, share_text
from nanoscout.evaluation.results_folder import RESULTS, Answers, read_json, read_results

LONGEST = 4_000
"""Characters of a message that a report shows."""


@dataclass(frozen=True)
class Table:
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Conversation:
    title: str
    gold: str
    answer: str
    messages: Sequence[tuple[str, str]]
    """Role and text of each."""


@dataclass(frozen=True)
class Section:
    """One folder."""

    title: str
    facts: Sequence[tuple[str, str]]
    picture: bytes
    """PNG."""
    tables: Sequence[Table]
    conversations: Sequence[Conversation]


def section(folder: Path, examples: int) -> Section:
    """What a report says of a folder, with up to `examples` conversations of each kind a cell.

    Raises UserError where there are no results.
    """
    conditions, answers = read_results(folder)
    cells = [cell_figures(of) for of in answers]
    results = read_json(folder / RESULTS)
    told = {key: results[key] for key in ("evidence", "source")}
    title = f"{conditions['suite']}: {len(answers[0].asked):,} questions"
    return Section(
        title=title,
        facts=[(key, _fact(value)) for key, value in {**conditions, **told}.items() if value != ""],
        picture=draw_cells(cells, title),
        tables=list(_tables(cells)),
        conversations=[one for of in answers for one in _examples(of, examples)],
    )


def _tables(cells: Sequence[dict[str, Any]]) -> Iterator[Table]:
    yield Table(
        "Right answers, and what they cost (means an answer)",
        columns(cells),
        [row(cell, cells) for cell in cells],
    )
    stops = list(dict.fromkeys(stop for cell in cells for stop in cell.get("stops", {})))
    yield Table(
        "How conversations ended",
        [*NAMES, *stops, "not asked", "not graded"],
        [
            [
                *name_of(cell),
                *(str(cell.get("stops", {}).get(stop, 0)) for stop in stops),
                str(cell["unasked"]),
                str(cell["ungraded"]),
            ]
            for cell in cells
        ],
    )
    topics = sorted({topic for cell in cells for topic in cell.get("by_topic", {})})
    if topics:
        yield Table(
            "Right answers by topic",
            [*NAMES, *topics],
            [
                [*name_of(cell), *(share_text(cell.get("by_topic", {}).get(t)) for t in topics)]
                for cell in cells
            ],
        )
    if any("judged" in cell for cell in cells):
        yield Table(
            "The judge's grades",
            [*NAMES, *JUDGED, "exact match", "agreement", "kappa"],
            [[*name_of(cell), *_judged(cell)] for cell in cells],
        )


JUDGED = ("correct", "incorrect", "not attempted", "correct given attempted", "F-score")


def _judged(cell: dict[str, Any]) -> list[str]:
    if "judged" not in cell:
        return [NOTHING] * (len(JUDGED) + 3)
    judged, agreement = cell["judged"], cell["agreement"]
    return [
        *(str(judged[key]) for key in ("correct", "incorrect", "not_attempted")),
        *(f"{100 * judged[key]:.1f}%" for key in ("correct_given_attempted", "f_score")),
        f"{100 * cell['exact']:.1f}%",
        f"{100 * agreement['share']:.1f}%",
        NOTHING if agreement["kappa"] is None else f"{agreement['kappa']:.2f}",
    ]


def _examples(answers: Answers, wanted: int) -> Iterator[Conversation]:
    """The first so many that are right, that are wrong, and that ended without an answer."""
    left = dict.fromkeys(("right", "wrong", "no answer"), wanted)
    for asked, attempt, graded in answers.graded:
        kind = "no answer" if attempt.answer is None else "right" if graded.correct else "wrong"
        if not left[kind]:
            continue
        left[kind] -= 1
        ending = f" ({attempt.stop})" if attempt.answer is None else ""
        yield Conversation(
            title=f"{answers.cell.name}, {kind}{ending}: {asked.question.text}",
            gold=asked.question.answer,
            answer=NOTHING if attempt.answer is None else _cut(attempt.answer),
            messages=list(_messages(attempt)),
        )


def _messages(attempt: Attempt) -> Iterator[tuple[str, str]]:
    for message in attempt.messages:
        texts = [_text(message.get("content"))]
        for call in message.get("tool_calls") or []:
            function = call.get("function", {})
            texts.append(f"-> {function.get('name')} {function.get('arguments')}")
        yield str(message.get("role")), _cut("\n".join(text for text in texts if text))


def _text(content: Any) -> str:
    """OpenAI's content is a text, a list of parts with texts, or nothing."""
    if isinstance(content, list):
        return "\n".join(str(part.get("text", part)) for part in content)
    return "" if content is None else str(content)


def _cut(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]}\n[{len(text) - LONGEST:,} more characters]"


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {of}" for key, of in value.items())
    return str(value)
