"""Generated code that is hostile, and the interpreter let it through: the process contains it.

`imports` lets the code have the modules that smolagents keeps from it, so that what stands here is
what the kernel refuses. After each, the next step works.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from smolagents.local_python_executor import InterpreterError

from nanoscout.evaluation.agents.sandbox import Sandbox, SandboxLimits

IMPORTS = ("ctypes", "io", "os", "resource", "signal", "socket", "subprocess", "threading")
KEY = "sk-secret"


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = Sandbox(SandboxLimits(cpu_seconds=1, seconds=600), IMPORTS)
    made.send_tools({"add": lambda a, b=0: a + b, "fail": lambda: 1 / 0})
    yield made
    made.cleanup()


def refused(sandbox: Sandbox, code: str) -> str:
    """What the model is told of code that fails; the next step works."""
    with pytest.raises(InterpreterError) as told:
        sandbox("".join(f"import {module}\n" for module in IMPORTS) + code)
    assert sandbox("1 + 1").output == "2"
    return str(told.value)


def test_code_runs_with_variables_that_stay_and_tools_that_are_ours(sandbox: Sandbox) -> None:
    done = sandbox("total = add(3, b=4)\nprint('total', total)\ntotal")
    assert (done.output, done.logs, done.is_final_answer) == ("7", "total 7\n", False)
    assert sandbox("import datetime\ndatetime.datetime.strptime(total + '0', '%y')").output
    done = sandbox("final_answer(total)")
    assert (done.output, done.is_final_answer) == ("7", True)


def test_what_a_tool_says_is_wrong_can_be_caught(sandbox: Sandbox) -> None:
    done = sandbox("try:\n    fail()\nexcept Exception as error:\n    print(error)")
    assert done.logs == "division by zero\n"
    with pytest.raises(InterpreterError, match="division by zero"):
        sandbox("print('before')\nfail()")
    assert sandbox.state["_print_outputs"] == "before\n"


def test_a_loop_without_end_is_ended_with_its_variables(sandbox: Sandbox) -> None:
    sandbox("zebra = 1")
    for code in ("sum(range(10**12))", "while True:\n    pass"):
        assert "more than 1 s of CPU time" in refused(sandbox, code)
    assert "not defined" in refused(sandbox, "zebra")


def test_code_that_waits_forever_is_ended() -> None:
    sandbox = Sandbox(SandboxLimits(seconds=3))
    try:
        with pytest.raises(InterpreterError, match="more than 3 s"):
            sandbox("import time\ntime.sleep(1e6)")
    finally:
        sandbox.cleanup()


def test_memory_is_limited(sandbox: Sandbox) -> None:
    for code in (
        "x = 'a' * 10**10",
        "x = [0] * 10**9",
        "x = []\nwhile True:\n    x = [x, 'a' * 10**7]",
    ):
        assert "MemoryError" in refused(sandbox, code)


@pytest.mark.parametrize(
    "code",
    [
        "io.open('{here}').read()",
        "io.open('/etc/passwd').read()",
        "io.open('{there}', 'w')",
        "os.open('{there}', os.O_CREAT | os.O_WRONLY)",
        "os.listdir('/')",
        "os.unlink('{here}')",
        "os.rename('{here}', '{there}')",
        "os.mkdir('{there}')",
        "os.memfd_create('x')",
        "socket.socket()",
        "socket.create_connection(('127.0.0.1', 9))",
        "socket.socketpair()",
        "subprocess.run(['ls'])",
        "os.execv('/bin/ls', ['ls'])",
        "while True:\n    os.fork()",
        "os.posix_spawn('/bin/ls', ['ls'], dict())",
        "threading.Thread(target=print).start()",
        "os.kill({pid}, 9)",
        "os.kill(os.getppid(), 9)",
        "signal.signal(signal.SIGXCPU, signal.SIG_IGN)",
        "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "resource.prlimit({pid}, resource.RLIMIT_CPU, (1, 1))",
        "os.chdir('/tmp')",
        "os.setuid(0)",
    ],
)
def test_the_kernel_refuses(sandbox: Sandbox, tmp_path: Path, code: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.write_text(KEY)
    told = refused(sandbox, code.format(here=here, there=there, pid=os.getpid()))
    assert "not permitted" in told or "not allowed" in told or "can't start new thread" in told
    assert here.read_text() == KEY
    assert not there.exists()
    assert len(psutil.Process().children(recursive=True)) == 1


def test_machine_code_gets_no_further(sandbox: Sandbox, tmp_path: Path) -> None:
    """os.system, which smolagents refuses by name, and a system call, both by the C library."""
    sandbox("import ctypes\nlib = ctypes.CDLL(None)")
    there = tmp_path / "there"
    sandbox(f"lib.system(b'touch {there}')")
    assert not there.exists()
    assert sandbox(f"lib.creat(b'{there}', 0o600)").output == "-1"
    assert "The code was ended: the interpreter crashed" in refused(sandbox, "ctypes.string_at(0)")


def test_there_is_nothing_in_the_environment(sandbox: Sandbox) -> None:
    done = sandbox("import os\nos.environ")
    assert "PATH" not in done.output
    assert KEY not in done.output


def test_output_is_cut(sandbox: Sandbox) -> None:
    done = sandbox("print('z' * 10**7)\n'y' * 10**7")
    assert len(done.logs) < 60_000
    assert len(done.output) < 30_000


@pytest.mark.parametrize("junk", ["b'junk\\n'", "b'[' * 1000 + b'\\n'", "b'x' * 5_000_000"])
def test_what_is_said_in_the_interpreters_place_is_no_message(sandbox: Sandbox, junk: str) -> None:
    assert "what it sent cannot be read" in refused(sandbox, f"os.write(1, {junk})")


def test_calls_of_tools_are_limited(sandbox: Sandbox) -> None:
    assert "no more than 32 tool calls" in refused(sandbox, "while True:\n    add(1)")


def test_an_end_from_within_is_told(sandbox: Sandbox) -> None:
    assert "The code was ended" in refused(sandbox, "os._exit(0)")
