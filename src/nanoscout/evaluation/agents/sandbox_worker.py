"""The process that runs generated code, on its own in a world of two pipes: started by sandbox.py.

smolagents' interpreter runs the code, as it does by default; it keeps out what looks dangerous, but
does not claim to hold. So before the first line of code the kernel is told (seccomp) to refuse all
but a dozen system calls: reading and writing what is open, which are the pipes, and memory, time,
randomness and the end. No file, socket or process can be opened, not even by machine code; memory
is limited, and CPU time by whoever started this. Tools are asked for over the pipes.

Imports nothing of ours, and all that code may import, before the files are gone.
"""

import ctypes
import errno
import importlib
import json
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any

from smolagents import FinalAnswerTool
from smolagents.local_python_executor import LocalPythonExecutor
from smolagents.utils import truncate_content

LAZY = ("_strptime",)
"""What modules that code may import import themselves once it runs."""

# read, write, exit, exit_group, rt_sigreturn, brk, mmap, munmap, mremap, madvise, futex,
# clock_gettime, clock_nanosleep, getrandom
SYSTEMS = {
    "x86_64": (0xC000003E, (0, 1, 60, 231, 15, 12, 9, 11, 25, 28, 202, 228, 230, 318)),
    "aarch64": (0xC00000B7, (63, 64, 93, 94, 139, 214, 222, 215, 216, 233, 98, 113, 115, 278)),
}
"""By machine: how the kernel calls it, and the numbers of the system calls that stay."""
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 1, 22, 38, 2


class Refused(Exception):
    """This machine cannot contain code."""


def main() -> None:
    received, sent = sys.stdin.buffer, sys.stdout.buffer

    def send(message: dict[str, Any]) -> None:
        sent.write(json.dumps(message, default=str).encode() + b"\n")
        sent.flush()

    def receive() -> dict[str, Any]:
        line = received.readline()
        if not line:
            os._exit(0)
        message: dict[str, Any] = json.loads(line)
        return message

    def tool(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            send({"call": name, "args": args, "kwargs": kwargs})
            answer = receive()
            if "error" in answer:
                raise RuntimeError(answer["error"])
            return answer["value"]

        return call

    begin = receive()
    executor = LocalPythonExecutor(begin["imports"], timeout_seconds=None)
    tools = {name: tool(name) for name in begin["tools"]}
    executor.send_tools({**tools, "final_answer": FinalAnswerTool()})
    executor.send_variables(begin["variables"])
    for module in (*executor.authorized_imports, *LAZY):
        importlib.import_module(module)
    try:
        contain(begin["memory"])
    except (Refused, OSError) as error:
        send({"refused": str(error)})
        return
    send({})
    while True:
        code = receive()["code"]
        try:
            done = executor(code)
            output = None if done.output is None else truncate_content(str(done.output))
            send({"output": output, "logs": done.logs, "final": done.is_final_answer})
        except Exception as error:
            send({"failed": str(error), "logs": str(executor.state["_print_outputs"])})


def contain(memory: int) -> None:
    """Take away all but memory, of which there are so many bytes, and the open pipes."""
    if sys.platform != "linux" or platform.machine() not in SYSTEMS:
        raise Refused("generated code can be contained on Linux alone (x86-64 and ARM64)")
    for limit, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    architecture, calls = SYSTEMS[platform.machine()]
    filters = [
        (LOAD, 0, 0, 4),
        (JUMP_IF_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, 0),
    ]
    for call in calls:
        filters += [(JUMP_IF_EQUAL, 0, 1, call), (RETURN, 0, 0, ALLOW)]
    filters.append((RETURN, 0, 0, REFUSE))
    packed = b"".join(struct.pack("HBBI", *one) for one in filters)
    code = ctypes.create_string_buffer(packed, len(packed))
    program = struct.pack("HP", len(filters), ctypes.addressof(code))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for arguments in (
        (PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0),
    ):
        if prctl(*arguments):
            raise Refused(f"the kernel does not contain code: {os.strerror(ctypes.get_errno())}")
    try:
        os.open("/", os.O_RDONLY)
    except PermissionError:
        return
    raise Refused("the kernel does not contain code")


if __name__ == "__main__":
    main()
