"""Results in folders: what is kept, what is refused, and how two of them compare."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nanoscout.comparing import compare_cells
from nanoscout.errors import UserError
from nanoscout.evaluation.attempt import Attempt
from nanoscout.evaluation.cell_figures import cell_figures
from nanoscout.evaluation.grading.graded import EXACT, Graded, Grader
from nanoscout.evaluation.record_log import RecordLog
from nanoscout.evaluation.results_folder import (
    Answers,
    Asked,
    Cell,
    filling,
    read_results,
)
from nanoscout.records import Grade, Question

CONDITIONS = {"suite": "jsonl", "seed": 0, "limits": {"turns": 8}}
CELL = Cell("model", "native", False, "abc")
JUDGE = Grader("judge", "strict", "1")


def asked(count: int = 6) -> list[Asked]:
    return [
        Asked(
            Question(f"q{n}", f"What is {n}?", f"A{n}", hop_type=f"{1 + n % 2}hop"),
            topic="even" if n % 2 == 0 else "odd",
        )
        for n in range(count)
    ]


def fill(
    folder: Path, right: str, cell: Cell = CELL, grader: Grader = EXACT, **attempt: Any
) -> None:
    """Answers as "10-1": right, wrong, not asked, right."""
    questions = asked(len(right))
    with filling(folder, CONDITIONS, questions) as results:
        log = results.open_cell(cell)
        for of, mark in zip(questions, right, strict=True):
            if mark == "-":
                continue
            answer = of.question.answer if mark == "1" else "wrong"
            log.keep_attempt(Attempt(of.question.id, answer, "answered", **attempt))
            grade = {"1": Grade.CORRECT, "0": Grade.INCORRECT}[mark] if grader != EXACT else None
            exact = mark == "1"
            log.keep_grade(Graded(of.question.id, exact, float(exact), exact, grade, grader))


def test_what_is_kept_is_read_back(tmp_path: Path) -> None:
    hostile = [{"role": "user", "content": 'line\nend "\u2028 \x00 </script> 東京 \ud800'}]
    fill(tmp_path / "out", "10-1", messages=hostile, searches=2, seconds=1.5)
    conditions, [answers] = read_results(tmp_path / "out")
    assert conditions == CONDITIONS
    assert answers.cell == CELL
    assert list(answers.asked) == asked(4)
    assert list(answers.attempts) == list(answers.grades) == ["q0", "q1", "q3"]
    kept = answers.attempts["q0"]
    assert kept.messages[0]["content"] == 'line\nend "\u2028 \x00 </script> 東京 ?'
    assert (kept.searches, kept.seconds) == (2, 1.5)


def test_a_torn_line_is_dropped_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = RecordLog(path, Asked)
    for of in asked(2):
        log.append(of)
    whole = path.read_bytes()
    for torn in (b"{", b'{"question": {"id": "q', whole.split(b"\n")[0]):
        path.write_bytes(whole + torn)
        assert RecordLog(path, Asked).records == asked(2)
        assert path.read_bytes() == whole + torn  # a reader changes nothing
        RecordLog(path, Asked).append(asked(3)[2])
        assert RecordLog(path, Asked).records == asked(3)
        assert path.read_bytes().startswith(whole)
    path.write_bytes(b"{}\n" + whole)
    with pytest.raises(UserError, match="line 1 is damaged"):
        RecordLog(path, Asked)


REFUSED = {
    "other conditions": ({**CONDITIONS, "seed": 1}, asked(), "seed: 0 there, 1 now"),
    "one more": ({**CONDITIONS, "judge": "x"}, asked(), 'judge: null there, "x" now'),
    "fewer questions": (CONDITIONS, asked(3), "holds 6 questions"),
    "other order": (CONDITIONS, asked()[::-1], "other questions"),
    "other answer": (
        CONDITIONS,
        [replace(of, question=replace(of.question, answer="B")) for of in asked()],
        "changed in text or answer",
    ),
    "other topic": (CONDITIONS, [replace(of, topic="") for of in asked()], "other questions"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_another_setting_is_refused_and_nothing_changes(tmp_path: Path, fault: str) -> None:
    out = tmp_path / "out"
    fill(out, "101010")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    conditions, questions, words = REFUSED[fault]
    with pytest.raises(UserError, match=words), filling(out, conditions, questions):
        pass
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_another_model_of_the_same_name_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "out", "1")
    with (
        filling(tmp_path / "out", CONDITIONS, asked(1)) as results,
        pytest.raises(UserError, match="another model of this name"),
    ):
        results.open_cell(replace(CELL, checksum="other"))


def test_a_folder_of_something_else_or_at_work_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    for place in (tmp_path, tmp_path / "notes.txt"):
        with (
            pytest.raises(UserError, match="something else"),
            filling(place, CONDITIONS, asked()),
        ):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with (
        filling(tmp_path / "out", CONDITIONS, asked()),
        pytest.raises(UserError, match="another nanoscout eval run is at work"),
        filling(tmp_path / "out", CONDITIONS, asked()),
    ):
        pass


def test_more_questions_models_and_agents_may_be_added(tmp_path: Path) -> None:
    fill(tmp_path / "out", "10")
    fill(tmp_path / "out", "--11")
    fill(tmp_path / "out", "1111", replace(CELL, agent="langgraph"))
    fill(tmp_path / "out", "1111", replace(CELL, thinking=True))
    _, cells = read_results(tmp_path / "out")
    assert [of.cell.name for of in cells] == [
        "model--langgraph",
        "model--native",
        "model--native--thinking",
    ]
    assert [cell_figures(of)["correct"] for of in cells] == [1.0, 0.75, 1.0]


def test_figures(tmp_path: Path) -> None:
    fill(tmp_path / "out", "110-1", grader=JUDGE, searches=3, visits=1, seconds=2.0)
    _, [answers] = read_results(tmp_path / "out")
    found = cell_figures(answers)
    assert (found["n"], found["questions"], found["unasked"]) == (4, 5, 1)
    assert found["correct"] == 0.75
    low, high = found["ci95"]
    assert (low, high) == pytest.approx((0.3006, 0.9544), abs=1e-4)
    assert {h: (of["correct"], of["n"]) for h, of in found["by_hops"].items()} == {
        "1": (2 / 3, 3),
        "2": (1.0, 1),
    }
    assert found["by_topic"]["odd"]["n"] == 1
    assert (found["searches"], found["visits"], found["seconds"]) == (3, 1, 2.0)
    assert found["stops"] == {"answered": 4}
    assert found["judged"]["f_score"] == 0.75
    assert found["agreement"]["share"] == 1.0
    assert "strict" in found["grader"]
    nothing = cell_figures(Answers(CELL, asked()))
    assert (nothing["unasked"], nothing["ungraded"]) == (6, 0)
    assert "correct" not in nothing
    json.dumps(found)


def compared(first: Path, second: Path) -> tuple[dict[str, Any], str]:
    text = io.StringIO()
    found = compare_cells(first, second, Console(file=text, width=150), as_json=False)
    return found, text.getvalue()


def test_comparison_is_paired_on_what_both_have(tmp_path: Path) -> None:
    fill(tmp_path / "a", "1001000-")
    fill(tmp_path / "b", "11-11111")
    found, text = compared(tmp_path / "a", tmp_path / "b" / "model--native")
    assert found["n"] == 6
    assert (found["only_first"], found["only_second"]) == (0, 4)
    assert found["p"] == 2 / 16
    assert found["points"] == pytest.approx(100 * 4 / 6)
    assert [(of["id"], of["right"]) for of in found["differ"]] == [
        (f"q{n}", "second") for n in (1, 4, 5, 6)
    ]
    assert found["by_hops"]["1"]["n"] == 3
    assert found["by_topic"]["odd"]["only_second"] == 2
    assert "B alone is right: What is 1? (gold: A1)" in text
    back, _ = compared(tmp_path / "b", tmp_path / "a")
    assert back["points"] == -found["points"]
    assert (back["p"], back["only_first"]) == (found["p"], 4)


def test_what_cannot_be_compared_is_told(tmp_path: Path) -> None:
    fill(tmp_path / "a", "10")
    fill(tmp_path / "judged", "10", grader=JUDGE)
    fill(tmp_path / "apart", "--1")
    fill(tmp_path / "two", "10")
    fill(tmp_path / "two", "10", replace(CELL, agent="langgraph"))
    other = tmp_path / "other"
    fill(other, "10")
    path = other / "questions.jsonl"
    path.write_text(path.read_text().replace("What is 1?", "What was 1?"))
    (tmp_path / "empty").mkdir()
    faults = {
        "judged": "different graders",
        "apart": "no question in common",
        "two": "several cells.*model--langgraph, model--native",
        "other": "q1 is not the same in both",
        "empty": "no results here",
        "nowhere": "no results here",
    }
    for name, words in faults.items():
        with pytest.raises(UserError, match=words):
            compared(tmp_path / "a", tmp_path / name)
