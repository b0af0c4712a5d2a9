"""Peers in environments of their own: `.peers/NAME`, which `make peers` builds.

A peer that is not there, or that does not start, is missing, with the reason; that is a line of
the table and no failure. What it prints is kept in benchmarks/out/.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDER = Path(".peers")
LAST_LINES = 3
TCMALLOC = Path("/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4")


class PeerMissing(Exception):
    """Its text is the reason."""


class Peer:
    """A running peer: `about` is what it says of itself."""

    def __init__(self, process: "subprocess.Popen[str]", log: Any):
        self._process, self._log = process, log
        self.about = self._answer()

    def ask(self, **job: Any) -> dict[str, Any]:
        assert self._process.stdin
        try:
            print(json.dumps(job), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise PeerMissing(self._last_words()) from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise PeerMissing(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        self._process.wait()
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        return " | ".join(lines[-LAST_LINES:]) or f"it ended with code {self._process.returncode}"


def preloaded(environment: Path) -> dict[str, str]:
    """Libraries that vLLM's handbook says to load first, where they are there: Intel's OpenMP,
    which its wheel brings, and tcmalloc (Debian's libtcmalloc-minimal4)."""
    libraries = [environment / "lib" / "libiomp5.so", TCMALLOC]
    if not libraries[0].exists():
        return {}
    return {"LD_PRELOAD": ":".join(str(path) for path in libraries if path.exists())}


@contextmanager
def open_peer(
    environment: str,
    script: str,
    arguments: Sequence[str],
    *,
    folder: Path = FOLDER,
) -> Iterator[Peer]:
    """Start benchmarks/SCRIPT with the Python of folder/ENVIRONMENT. Raises PeerMissing."""
    python = folder.absolute() / environment / "bin" / "python"
    if not python.exists():
        raise PeerMissing(f"{folder / environment} is not there; make peers builds it")
    path = Path(__file__).parent / script
    logs = Path(__file__).parent / "out"
    logs.mkdir(exist_ok=True)
    with (logs / f"{path.stem}-{Path(arguments[-1]).stem}.log").open("w+") as log:
        process = subprocess.Popen(
            [str(python), str(path), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | preloaded(python.parents[1]),
        )
        try:
            yield Peer(process, log)
        finally:
            assert process.stdin
            process.stdin.close()
            process.terminate()
            process.wait()
