"""Rewards of one's own: found, tried out, refused in one line, and stopped where they fail."""

import sys
from pathlib import Path
from uuid import uuid4

import pytest

from nanoscout.errors import UserError
from nanoscout.records import Question, StopReason, Trajectory
from nanoscout.rewards import find_reward, score

GOOD = """
import numpy

def brevity(trajectory):
    return 1 / (1 + len(trajectory.answer or ""))

def one(trajectory, scale=1.0):
    return scale

def half(trajectory):
    return numpy.float32(0.5)

def right(trajectory):
    return trajectory.answer == trajectory.question.answer

class Length:
    def __call__(self, trajectory):
        return len(trajectory.turns)

length = Length()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that is not there yet, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    return f"own_{uuid4().hex}"


def write(module: str, text: str) -> None:
    Path(f"{module}.py").write_text(text)


def refusal(name: str) -> str:
    with pytest.raises(UserError) as caught:
        find_reward(name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)
    return str(caught.value)


def test_any_callable_that_takes_a_trajectory_is_a_reward(module: str) -> None:
    write(module, GOOD)
    trajectory = Trajectory(Question("q", "?", "yes"), answer="yes")
    names = ("brevity", "one", "half", "right", "length")
    weights = {f"{module}:{name}": 2.0 for name in names} | {"correctness": 1.0}
    scores = score(trajectory, weights)
    assert list(scores.parts.values()) == [0.25, 1.0, 0.5, 1.0, 0.0, 1.0]
    assert all(type(value) is float for value in scores.parts.values())
    assert scores.total == pytest.approx(2 * 2.75 + 1)


def test_a_reward_may_come_from_a_package_or_from_what_is_installed(module: str) -> None:
    Path(module).mkdir()
    Path(module, "rewards.py").write_text(GOOD)
    assert find_reward(f"{module}.rewards:one")(Trajectory(Question("q", "?", "yes"))) == 1.0
    installed = find_reward("nanoscout.rewards.correctness:answer_f1")
    assert installed(Trajectory(Question("q", "?", "yes"), answer="oh yes")) == pytest.approx(2 / 3)


FAULTS = {
    "x = 1": "no function 'f'",
    "f = 3": "only a int named 'f'",
    "def f(): return 1.0": "must take one argument",
    "def f(a, b): return 1.0": "must take one argument",
    "def f(*, t): return 1.0": "must take one argument",
    "async def f(t): return 1.0": "asynchronous",
    "def f(t): return None": "returned None",
    "def f(t): return '1.0'": "returned '1.0'",
    "def f(t): return float('nan')": "returned nan",
    "def f(t): return float('-inf')": "returned -inf",
    "def f(t): return 10 ** 400": "OverflowError",
    "import numpy\ndef f(t): return numpy.zeros((9, 9))": "finite number",
    "def f(t): return t.nothing": "AttributeError: 'Trajectory' object has no attribute 'nothing'",
    "def f(t): return len(t.answer)": "TypeError",
    "def f(t): return 1 / len(t.turns)": "ZeroDivisionError: division by zero",
    "def f(t):\n    raise ValueError('one\\ntwo')": "ValueError: one two",
    "def f(t: return 1": "SyntaxError",
    "import no_such_thing_anywhere": "No module named 'no_such_thing_anywhere'",
    "raise SystemExit('bye')": "SystemExit: bye",
    "1 / 0": "ZeroDivisionError",
}


@pytest.mark.parametrize("text", FAULTS)
def test_what_is_no_reward_is_refused_in_one_line(module: str, text: str) -> None:
    write(module, text)
    assert FAULTS[text] in refusal(f"{module}:f")


@pytest.mark.parametrize("text", ["def f(t):\n\n    return t.nothing", "\n\n1 / 0"])
def test_a_refusal_says_where_in_the_code(module: str, text: str) -> None:
    write(module, text)
    assert f"({module}.py, line 3)" in refusal(f"{module}:f")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module_at_all:f", "no module 'no_such_module_at_all'"),
        ("no_such_package.inner:f", "no module 'no_such_package.inner'"),
        ("json.nothing:f", "no module 'json.nothing'"),
        ("json:", "no function ''"),
        (":dumps", "ValueError"),
        ("a:b:c", "no module 'a'"),
    ],
)
def test_a_module_that_is_not_there(module: str, name: str, said: str) -> None:
    assert said in refusal(name)


def test_a_reward_that_fails_later_stops_with_its_name(module: str) -> None:
    write(
        module, "def f(t):\n    return {'q1': 1.0, 'q2': float('nan'), 'sample': 0}[t.question.id]"
    )
    weights = {"correctness": 1.0, f"{module}:f": 1.0}
    good, bad, worse = (Trajectory(Question(f"q{n}", "?", "yes")) for n in (1, 2, 3))
    assert score(good, weights).total == 1.0
    with pytest.raises(UserError, match=rf"'{module}:f' returned nan for a conversation .* 'q2'"):
        score(bad, weights)
    with pytest.raises(
        UserError, match=rf"'{module}:f' failed on .* 'q3': KeyError: 'q3' .* line 2"
    ):
        score(worse, weights)


def test_it_is_tried_on_conversations_that_end_without_an_answer(module: str) -> None:
    write(
        module,
        "seen = []\ndef f(t):\n    seen.append((t.stop, t.answer, len(t.turns)))\n    return 0",
    )
    find_reward(f"{module}:f")
    assert sys.modules[module].seen == [
        (StopReason.ANSWERED, "Onn", 3),
        (StopReason.TURN_LIMIT, None, 2),
        (StopReason.CONTEXT_LIMIT, None, 0),
    ]
