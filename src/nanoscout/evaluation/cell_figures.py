"""What a cell's answers come to: shares with their intervals, how they ended, what they cost."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import fmean, median
from typing import Any

from nanoscout.evaluation.attempt import Attempt
from nanoscout.evaluation.grading.agreement import agreement
from nanoscout.evaluation.grading.figures import figures
from nanoscout.evaluation.grading.graded import Graded
from nanoscout.evaluation.results_folder import Answers, Asked
from nanoscout.evaluation.statistics import wilson

Row = tuple[Asked, Attempt, Graded]


def cell_figures(answers: Answers) -> dict[str, Any]:
    """The entry of a cell in results.json.

    Shares are in [0, 1], with 95% intervals (Wilson's); tokens, calls and seconds are means an
    answer. Questions that could not be asked (`unasked`) or graded (`ungraded`) are counted, and
    in no share. Without a graded answer there are no shares.
    """
    cell, rows = answers.cell, answers.graded
    entry: dict[str, Any] = {
        "model": cell.model,
        "agent": cell.agent,
        "thinking": cell.thinking,
        "questions": len(answers.asked),
        "unasked": sum(asked.question.id not in answers.attempts for asked in answers.asked),
        "ungraded": len(answers.attempts) - len(answers.grades),
    }
    if not rows:
        return entry
    graded = [row[2] for row in rows]
    found = figures(graded)
    entry |= {
        **_share(rows),
        "by_hops": _split(rows, lambda asked: str(asked.question.hops)),
        "by_topic": _split(rows, lambda asked: asked.topic),
        "grader": str(found.grader),
        "exact": found.exact,
        "f1": found.f1,
        "contains": found.contains,
        "stops": dict(Counter(row[1].stop for row in rows).most_common()),
        **_cost([row[1] for row in rows]),
    }
    if found.judged is not None:
        judged = found.judged
        entry["judged"] = asdict(judged) | {
            "correct_given_attempted": judged.correct_given_attempted,
            "f_score": judged.f_score,
        }
        entry["agreement"] = asdict(agreement(graded))
    return entry


def _share(rows: Sequence[Row]) -> dict[str, Any]:
    right = sum(graded.correct for _, _, graded in rows)
    return {"correct": right / len(rows), "ci95": list(wilson(right, len(rows))), "n": len(rows)}


def _split(rows: Sequence[Row], part: Callable[[Asked], str]) -> dict[str, Any]:
    """Shares by the parts that have a name."""
    parts: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        parts[part(row[0])].append(row)
    return {name: _share(of) for name, of in sorted(parts.items()) if name}


def _cost(attempts: Sequence[Attempt]) -> dict[str, Any]:
    seconds = [attempt.seconds for attempt in attempts]
    return {
        "prompt_tokens": fmean(attempt.prompt_tokens for attempt in attempts),
        "completion_tokens": fmean(attempt.completion_tokens for attempt in attempts),
        "think_tokens": fmean(attempt.think_tokens for attempt in attempts),
        "searches": fmean(attempt.searches for attempt in attempts),
        "visits": fmean(attempt.visits for attempt in attempts),
        "seconds": fmean(seconds),
        "median_seconds": median(seconds),
    }
