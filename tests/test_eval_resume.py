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
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
import pytest
from chat_server import ChatServer, chatting
from click.testing import Result
from judge_server import JudgeServer, exact, judging
from one_request import open_agent
from serving import PAGES
from typer.testing import CliRunner

from nanoscout import evaluating
from nanoscout.cli import app
from nanoscout.errors import UserError
from nanoscout.judge.judge import TRIAL
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


Options = dict[str, str]


@pytest.fixture
def options(inputs: Path, model: ChatServer, judge: JudgeServer) -> Options:
    return {
        "--suite": "jsonl",
        "--path": str(inputs / "questions.jsonl"),
        "--search": str(inputs / "index"),
        "--agent": "langgraph",
        "--endpoint": model.url,
        "--judge": judge.url,
        "--judge-model": "strict",
        "--concurrency": "4",
    }


def words(options: Options, out: Path) -> list[str]:
    return ["eval", "run", "told", *chain.from_iterable(options.items()), "--out", str(out)]


def start(options: Options, out: Path) -> "subprocess.Popen[str]":
    """As a process, to be killed."""
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), *words(options, out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
        # A shell ignores SIGINT for what it starts in the background, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def run(options: Options, out: Path) -> Result:
    """In this process."""
    return CliRunner().invoke(app, words(options, out))


@pytest.fixture(autouse=True)
def one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluating, "open_agent", open_agent)


def when_asked(model: ChatServer, number: int, do: Callable[[], object]) -> None:
    """At the `number`th request from now on, before it is answered."""
    reply, already = model.reply, len(model.chats)

    def answer(chat: list[dict[str, Any]]) -> str:
        if len(model.chats) - already >= number and model.reply is answer:
            model.reply = reply
            do()
        return reply(chat)

    model.reply = answer


def finished(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.output


def judged(judge: JudgeServer) -> list[str]:
    """The questions whose answers were graded; each start asks a trial question first."""
    return [case["question"] for case in judge.cases if case["question"] != TRIAL.text]


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
    options: Options, model: ChatServer, judge: JudgeServer, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    process = start(options, out)
    children: list[psutil.Process] = []

    def kill() -> None:
        children.extend(psutil.Process(process.pid).children(recursive=True))
        process.kill()

    when_asked(model, 12, kill)
    process.communicate(timeout=100)
    assert process.returncode == -signal.SIGKILL
    assert len(children) == 2  # the MCP server, and its leash
    assert not psutil.wait_procs(children, timeout=30)[1]

    attempts, grades = kept(out, "attempts"), kept(out, "grades")
    assert 8 <= len(attempts) < COUNT
    asked_before, judged_before = len(model.chats), len(judged(judge))
    path = out / "told--langgraph" / "attempts.jsonl"
    before = path.read_bytes()
    with open(path, "ab") as file:
        file.write(b'{"question_id": "q')  # what a kill leaves of a line

    assert f"{len(grades)} answers are there already" in finished(run(options, out))
    texts = {f"q{n}": f"What is number {n}" for n in range(COUNT)}
    assert sorted(model.asked()[asked_before:]) == sorted(
        text for name, text in texts.items() if name not in attempts
    )
    again = judged(judge)[judged_before:]
    assert max(Counter(again).values()) == 1
    assert not set(again) & {texts[name] for name in grades}
    assert path.read_bytes().startswith(before)

    whole = tmp_path / "whole"
    finished(run(options, whole))
    assert figures(out) == figures(whole)
    [cell] = figures(out)["cells"]
    assert (cell["n"], cell["correct"], cell["unasked"]) == (COUNT, 0.5, 0)
    assert cell["stops"] == {"answered": 20, "malformed": 4}
    assert cell["by_topic"]["t0"]["correct"] == 1.0
    assert cell["grader"].startswith("judge strict")
    for kind in ("attempts", "grades"):
        assert kept(out, kind) == kept(whole, kind)

    done = len(model.chats), len(judged(judge))
    finished(run(options, out))
    assert (len(model.chats), len(judged(judge))) == done
    assert figures(out) == figures(whole)


def test_ctrl_c_ends_the_servers_and_says_how_to_go_on(
    options: Options, model: ChatServer, tmp_path: Path
) -> None:
    process = start(options, tmp_path / "out")
    children: list[psutil.Process] = []

    def stop() -> None:
        children.extend(psutil.Process(process.pid).children(recursive=True))
        process.send_signal(signal.SIGINT)

    when_asked(model, 8, stop)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "the same command" in err
    assert "Traceback" not in err
    assert len(children) == 2
    assert not psutil.wait_procs(children, timeout=30)[1]
    assert kept(tmp_path / "out", "attempts")


def test_a_server_that_dies_midway_ends_the_run_and_keeps_what_was_done(
    options: Options, model: ChatServer, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def kill_the_mcp_server() -> None:
        [leash] = psutil.Process().children()
        [server] = leash.children()
        server.kill()
        psutil.wait_procs([server], timeout=30)

    when_asked(model, 6, kill_the_mcp_server)
    error = run(options, out).exception
    assert isinstance(error, UserError)
    assert "the MCP server ended (status 137)" in str(error)
    assert f"What was done is kept in {out}; the same command goes on" in str(error)
    done = len(kept(out, "attempts"))
    assert done >= 2
    finished(run(options, out))
    assert len(kept(out, "attempts")) == COUNT
    assert figures(out)["cells"][0]["n"] == COUNT


def test_an_endpoint_that_fails_ends_the_run_and_what_failed_is_asked_again(
    options: Options, model: ChatServer, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def fail(chat: list[dict[str, Any]]) -> str:
        if len(model.chats) > 10:
            raise ConnectionError("as told")
        return said(chat)

    model.reply = fail
    error = run(options, out).exception
    assert isinstance(error, UserError)
    assert "5 times on end" in str(error)
    done = len(kept(out, "attempts"))
    assert 6 <= done <= 10
    [cell] = json.loads((out / "results.json").read_text())["cells"]
    assert cell["unasked"] == COUNT - done
    # What could not be asked is not wrong, and what could not be graded yet is not either.
    assert cell["n"] == len(kept(out, "grades")) <= done
    model.reply = said
    finished(run(options, out))
    assert figures(out)["cells"][0]["correct"] == 0.5
