"""A search server in processes of its own, for benchmarks."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


@contextmanager
def search_server(index: Path, workers: int) -> Iterator[tuple[int, psutil.Process]]:
    """The port of a running `nanoscout index serve`, and its process."""
    command = [sys.executable, "-m", "nanoscout", "index", "serve", str(index), "--port", "0"]
    server = subprocess.Popen(
        [*command, "--workers", str(workers)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        ready = re.search(r":(\d+) \(", server.stdout.readline())
        if not ready:
            sys.exit("the server did not start")
        yield int(ready[1]), psutil.Process(server.pid)
    finally:
        server.terminate()
        server.wait()


def memory_mb(process: psutil.Process) -> float:
    """Resident memory of a process and its children; pages that they share count once."""
    family = [process, *process.children(recursive=True)]
    return sum(member.memory_full_info().pss for member in family) / 1e6
