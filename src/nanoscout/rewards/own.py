"""A reward of one's own: a Python function that a recipe names as `module:function`.

It takes a `Trajectory` and returns a finite number. The module is looked for in the working
directory and in the environment. The function is tried out before a run begins; where it fails
later on, the run stops and says so, for a reward that is quietly 0 teaches something else.
"""

import importlib
import inspect
import math
import sys
import traceback
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any

from nanoscout.errors import UserError
from nanoscout.records import (
    Grade,
    Question,
    Step,
    StopReason,
    ToolCall,
    ToolResult,
    Trajectory,
    Turn,
    TurnKind,
)


def own_reward(name: str) -> Callable[[Trajectory], float]:
    """The function `module:function`, tried out and guarded; raises UserError if it is none."""
    module_name, _, function_name = name.partition(":")
    function = _find(name, module_name, function_name)

    def reward(trajectory: Trajectory) -> float:
        try:
            value = function(trajectory)
            number = float(value) if isinstance(value, Real) else math.nan
        except Exception as error:
            raise UserError(
                f"reward '{name}' failed on {_told(trajectory)}: {_explain(error)}"
            ) from error
        if not math.isfinite(number):
            raise UserError(
                f"reward '{name}' returned {_line(repr(value))[:80]} for {_told(trajectory)}; "
                "it must return a finite number"
            )
        return number

    for sample in _samples():
        reward(sample)
    return reward


def _find(name: str, module_name: str, function_name: str) -> Callable[[Trajectory], Any]:
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(f"reward '{name}': its module fails: {_explain(error)}") from error
        raise UserError(
            f"reward '{name}': there is no module '{module_name}', neither in {here} nor installed"
        ) from None
    except (Exception, SystemExit) as error:
        raise UserError(f"reward '{name}': its module fails: {_explain(error)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        what = "no function" if function is None else f"only a {type(function).__name__} named"
        raise UserError(f"reward '{name}': {module_name} has {what} '{function_name}'")
    if inspect.iscoroutinefunction(function):
        raise UserError(f"reward '{name}' is asynchronous; a reward is an ordinary function")
    try:
        inspect.signature(function).bind(None)
    except (TypeError, ValueError):
        raise UserError(f"reward '{name}' must take one argument, a Trajectory") from None
    return function


def _explain(error: BaseException) -> str:
    """The error in one line, with the place in the code that it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {_line(str(error))}{place}"


def _line(text: str) -> str:
    return " ".join(text.split())


def _told(trajectory: Trajectory) -> str:
    return f"a conversation on question '{trajectory.question.id}'"


def _samples() -> list[Trajectory]:
    """A conversation that searches, reads and answers, one that is cut, and an empty one."""
    question = Question(
        "sample",
        "In which country is Brell?",
        "Onn",
        ("the land of Onn",),
        "1hop",
        (Step("In which country is Brell?", "Onn", "brell"),),
    )

    def called(name: str, args: dict[str, Any], start: int) -> Turn:
        call = ToolCall(name, args)
        result = ToolResult("Brell is a town in Onn.", ok=True, shown=("brell",))
        return Turn(start, start + 2, "<tool>...</tool>", TurnKind.CALL, [call], [result])

    calls = [called("web_search", {"query": "Brell"}, 1), called("visit", {"url": "u:brell"}, 4)]
    answer = Turn(7, 9, "<answer>Onn</answer>", TurnKind.ANSWER)
    sampled = [False, True, True] * 3
    logprobs = [-0.5 * flag for flag in sampled]
    return [
        Trajectory(
            question,
            list(range(9)),
            sampled,
            logprobs,
            [*calls, answer],
            StopReason.ANSWERED,
            "Onn",
            Grade.CORRECT,
        ),
        Trajectory(
            question, list(range(6)), sampled[:6], logprobs[:6], calls, StopReason.TURN_LIMIT
        ),
        Trajectory(question, stop=StopReason.CONTEXT_LIMIT),
    ]
