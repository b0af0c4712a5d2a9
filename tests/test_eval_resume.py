"""An evaluation is a process that may be killed, and servers that may die: nothing is done twice.

The command line, the results folder, the MCP server's process, the endpoint and the judge are real;
the agent is one that needs one request an answer (one_request.py), so that requests can be counted.
"""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from chat_server import ChatServer, chatting
from judge_server import JudgeServer, exact, judging
from serving import PAGES

from nanoscout.search.index import SearchIndex

COUNT = 24
PROGRAM = Path(__file__).with_name("one_request.py")


def said(chat: list[dict[str, Any]]) -> str:
    """Right on even questions, wrong on odd ones, nothing on each sixth."""
    number = int(chat[-1]["content"].split()[-1])
    return "" if number % 6 == 5 else f"A{number}" if number % 2 == 0 else f"B{number}"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    SearchIndex.build(PAGES, folder / "index")
    lines = [
        {"id": f"q{n}", "question": f"What is number {n}", "answer": f"A{n}", "topic": f"t{n % 2}"}
        for n in range(COUNT)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def model() -> Iterator[ChatServer]:
    with chatting(said) as server:
        yield server


@pytest.fixture
def judge() -> Iterator[JudgeServer]:
    with judging(exact) as server:
        yield server


Start = Callable[[Path], "subprocess.Popen[str]"]


@pytest.fixture
def start(inputs: Path, model: ChatServer, judge: JudgeServer) -> Start:
    def start(out: Path) -> "subprocess.Popen[str]":
        options = {
            "--suite": "jsonl",
            "--path": str(inputs / "questions.jsonl"),
            "--search": str(inputs / "index"),
            "--agent": "langgraph",
            "--endpoint": model.url,
            "--judge": judge.url,
            "--judge-model": "strict",
            "--concurrency": "4",
            "--out": str(out),
        }
        words = [word for option in options.items() for word in option]
        return subprocess.Popen(
            [sys.executable, str(PROGRAM), "eval", "run", "told", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
        )

    return start


def when_asked(model: ChatServer, number: int, do: Callable[[], object]) -> None:
    """At the `number`th request from now on, before it is answered."""
    reply, already = model.reply, len(model.chats)

    def answer(chat: list[dict[str, Any]]) -> str:
        if len(model.chats) - already >= number:
            model.reply = reply
            do()
        return reply(chat)

    model.reply = answer


def finished(process: "subprocess.Popen[str]") -> str:
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    return out


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def kept(out: Path, kind: str) -> dict[str, dict[str, Any]]:
    found = lines(out / "told--langgraph" / f"{kind}.jsonl")
    assert max(Counter(line["question_id"] for line in found).values(), default=1) == 1
    return {line["question_id"]: line for line in found}


def figures(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    for cell in found["cells"]:
        for key in ("seconds", "median_seconds"):
            del cell[key]
    return found


def test_a_killed_run_goes_on_and_does_nothing_twice(
    start: Start, inputs: Path, model: ChatServer, judge: JudgeServer, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    process = start(out)
    when_asked(model, 12, process.kill)
    process.communicate(timeout=100)
    assert process.returncode == -signal.SIGKILL

    attempts, grades = kept(out, "attempts"), kept(out, "grades")
    assert 8 <= len(attempts) < COUNT
    asked, judged = len(model.chats), len(judge.cases)
    before = (out / "told--langgraph" / "attempts.jsonl").read_bytes()
    with open(out / "told--langgraph" / "attempts.jsonl", "ab") as file:
        file.write(b'{"question_id": "q')  # what a kill leaves of a line

    told = finished(start(out))
    assert f"{len(grades)} answers are there already" in told
    texts = {f"q{n}": f"What is number {n}" for n in range(COUNT)}
    assert sorted(model.asked()[asked:]) == sorted(
        text for name, text in texts.items() if name not in attempts
    )
    again = [case["question"] for case in judge.cases[judged:]]
    assert max(Counter(again).values()) == 1
    assert not set(again) & {texts[name] for name in grades}
    assert (out / "told--langgraph" / "attempts.jsonl").read_bytes().startswith(before)

    whole = tmp_path / "whole"
    finished(start(whole))
    assert figures(out) == figures(whole)
    [cell] = figures(out)["cells"]
    assert (cell["n"], cell["correct"], cell["unasked"]) == (COUNT, 0.5, 0)
    assert cell["stops"] == {"answered": 20, "malformed": 4}
    assert cell["by_topic"]["t0"]["correct"] == 1.0
    assert cell["grader"].startswith("judge strict")
    for kind in ("attempts", "grades"):
        one, other = kept(out, kind), kept(whole, kind)
        assert one == other

    asked, judged = len(model.chats), len(judge.cases)
    finished(start(out))
    assert (len(model.chats), len(judge.cases)) == (asked, judged)
    assert figures(out) == figures(whole)


def test_no_server_outlives_the_run_however_it_ends(
    start: Start, model: ChatServer, inputs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for end in (signal.SIGKILL, signal.SIGINT):
        process = start(out)
        started: list[psutil.Process] = []

        def stop(process: Any = process, end: int = end, started: Any = started) -> None:
            started += psutil.Process(process.pid).children(recursive=True)
            process.send_signal(end)

        when_asked(model, 4, stop)
        _, err = process.communicate(timeout=100)
        assert len(started) == 2  # the leash and the server
        psutil.wait_procs(started, timeout=30)
        assert not [child for child in started if child.is_running()]
    assert process.returncode == 130
    assert "the same command" in err
    assert "Traceback" not in err
    assert kept(out, "attempts")


def test_a_server_that_dies_midway_ends_the_run_and_keeps_what_was_done(
    start: Start, model: ChatServer, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(out)

    def kill_the_mcp_server() -> None:
        [leash] = psutil.Process(process.pid).children()
        [server] = leash.children()
        server.kill()
        leash.wait(30)

    when_asked(model, 6, kill_the_mcp_server)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 2
    [line] = err.splitlines()
    assert "the MCP server ended (status 137)" in line
    assert f"What was done is kept in {out}; the same command goes on" in line
    assert len(kept(out, "attempts")) >= 2
    asked = len(model.chats)
    finished(start(out))
    assert len(model.chats) - asked <= COUNT - 2
    assert figures(out)["cells"][0]["n"] == COUNT


def test_an_endpoint_that_fails_ends_the_run_and_what_failed_is_asked_again(
    start: Start, model: ChatServer, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def fail(chat: list[dict[str, Any]]) -> str:
        if len(model.chats) > 10:
            raise ConnectionError("as told")
        return said(chat)

    model.reply = fail
    _, err = (process := start(out)).communicate(timeout=100)
    assert process.returncode == 2
    [line] = [line for line in err.splitlines() if line.startswith("nanoscout")]
    assert "5 times on end" in line
    done = len(kept(out, "attempts"))
    assert 6 <= done <= 10
    [cell] = json.loads((out / "results.json").read_text())["cells"]
    assert cell["unasked"] == COUNT - done
    assert cell["n"] == done  # what could not be asked is not wrong
    model.reply = said
    finished(start(out))
    assert figures(out)["cells"][0]["correct"] == 0.5
