"""Where a CodeAgent's code runs: smolagents' executor interface over a process that can do nothing.

The process (sandbox_worker.py) is one conversation's, so that variables live from step to step. It
has no files, no network, no processes and an empty environment, see there. Here is what it cannot
be trusted with: its CPU time and its wall time are limited for each step, its messages are checked,
its tool calls are made for it. Code that breaks a limit is ended, with its variables; the model is
told, and the next step begins in a new process.
"""

import json
import math
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from smolagents.local_python_executor import CodeOutput, InterpreterError, PythonExecutor

from nanoscout.evaluation.agents.unreachable import Unreachable

WORKER = Path(__file__).with_name("sandbox_worker.py")
MAX_MESSAGE = 4_000_000
"""Bytes of one message; the interpreter cuts what code prints far below."""


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Of the code of one step, but for memory."""

    cpu_seconds: int = 10
    seconds: float = 120.0
    """Between two messages, so that time in tools doesn't count."""
    memory: int = 512 * 2**20
    calls: int = 32
    """Calls of tools."""


class _Message(BaseModel):
    """What the process says: that it is ready, or not; a call; how the code ended."""

    refused: str = ""
    call: str = ""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    output: str | None = None
    logs: str = ""
    final: bool = False
    failed: str | None = None


class Sandbox(PythonExecutor):
    """`imports`: modules that code may import besides those that smolagents allows."""

    def __init__(self, limits: SandboxLimits | None = None, imports: Sequence[str] = ()):
        self.state: dict[str, Any] = {}
        """Of the last step, what the framework looks for here: `_print_outputs`."""
        self._limits = limits or SandboxLimits()
        self._imports = list(imports)
        self._tools: Mapping[str, Callable[..., Any]] = {}
        self._variables: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def send_tools(self, tools: Mapping[str, Callable[..., Any]]) -> None:
        self._tools = {name: tool for name, tool in tools.items() if name != "final_answer"}

    def send_variables(self, variables: Mapping[str, Any]) -> None:
        self._variables.update(variables)

    def __call__(self, code_action: str) -> CodeOutput:
        """Raises InterpreterError for what the model is to hear, Unreachable where no code can be
        run here."""
        self.state["_print_outputs"] = ""
        process = self._process or self.start()
        try:
            said = self._run(process, code_action)
        except (EOFError, OSError):
            process.kill()
            why = _why_ended(process.wait(), self._limits)
            raise InterpreterError(self._end(why)) from None
        except ValidationError:
            raise InterpreterError(self._end("what it sent cannot be read")) from None
        self.state["_print_outputs"] = said.logs
        if said.failed is not None:
            raise InterpreterError(said.failed)
        return CodeOutput(said.output, said.logs, said.final)

    def _run(self, process: subprocess.Popen[bytes], code: str) -> _Message:
        _limit_cpu(process.pid, self._limits.cpu_seconds)
        said = self._ask(process, {"code": code})
        calls = 0
        while said.call:
            calls += 1
            said = self._ask(process, self._call(said, calls))
        return said

    def _ask(self, process: subprocess.Popen[bytes], message: dict[str, Any]) -> _Message:
        """The next message; too late, the process is ended."""
        patience = threading.Timer(self._limits.seconds, process.kill)
        patience.start()
        try:
            return _ask(process, message)
        finally:
            patience.cancel()

    def _end(self, why: str) -> str:
        self.cleanup()
        return f"The code was ended: {why}. All variables are gone."

    def start(self) -> subprocess.Popen[bytes]:
        """A new process. Raises Unreachable where this machine cannot contain it."""
        process = self._process = subprocess.Popen(
            [sys.executable, "-P", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
            start_new_session=True,
        )
        begin = {
            "imports": self._imports,
            "tools": list(self._tools),
            "variables": self._variables,
            "memory": self._limits.memory,
        }
        try:
            said = _ask(process, begin)
        except (EOFError, OSError, ValidationError):
            self.cleanup()
            raise Unreachable("the process for generated code does not start") from None
        if said.refused:
            self.cleanup()
            raise Unreachable(said.refused)
        return process

    def cleanup(self) -> None:
        """End the process; the next code gets another."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.communicate()

    def _call(self, said: _Message, number: int) -> dict[str, Any]:
        if number > self._limits.calls:
            return {"error": f"no more than {self._limits.calls} tool calls in one step"}
        if said.call not in self._tools:
            return {"error": f"no tool is called {said.call}"}
        try:
            return {"value": str(self._tools[said.call](*said.args, **said.kwargs))}
        except Exception as error:
            return {"error": str(error)}


def _ask(process: subprocess.Popen[bytes], message: dict[str, Any]) -> _Message:
    """What is said next. Raises EOFError or OSError where the process ends before it."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(message).encode() + b"\n")
    process.stdin.flush()
    line = process.stdout.readline(MAX_MESSAGE)
    if not line:
        raise EOFError
    return _Message.model_validate_json(line)


def _limit_cpu(pid: int, seconds: int) -> None:
    """Give a process so many seconds from now on; at their end the kernel ends it."""
    used = time.clock_gettime(~pid << 3 | 2)  # the clock that clock_getcpuclockid(3) names
    _, most = resource.prlimit(pid, resource.RLIMIT_CPU)
    resource.prlimit(pid, resource.RLIMIT_CPU, (math.ceil(used) + seconds, most))


def _why_ended(status: int, limits: SandboxLimits) -> str:
    if status == -signal.SIGXCPU:
        return f"it took more than {limits.cpu_seconds} s of CPU time"
    if status == -signal.SIGKILL:
        return f"it took more than {limits.seconds:g} s, or more memory than there is"
    return "the interpreter crashed"
