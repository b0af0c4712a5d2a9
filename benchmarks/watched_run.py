"""A run of `nanoscout train` in a process of its own: watched while it lasts, killed where asked.

The peak of its resident memory is noted for each step and then reset, both through /proc, so this
is for Linux only.
"""

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nanoscout.errors import UserError

POLL = 0.1
"""Seconds between two looks at a run."""
TIMINGS = ("seconds", "tokens_per_second")
"""What of a step's metrics is different each time."""


class WatchedRun:
    """`overrides`: what is otherwise than in the recipe, as `key=value`."""

    def __init__(self, recipe: Path, overrides: Sequence[str], folder: Path):
        self.folder = folder
        self.peaks: dict[int, int] = {}
        """Bytes by step; what comes before the first step or after the last is counted to it."""
        self.seconds = 0.0
        sets = [part for override in overrides for part in ("--set", override)]
        self._command = [sys.executable, "-m", "nanoscout", "train", str(recipe), *sets]

    def go_on(self, kill_at: int | None = None, kill_after: float = 0.0) -> None:
        """Begin or resume it, up to its end or up to SIGKILL: so many seconds after the checkpoint
        of step `kill_at`."""
        resume = ["--resume"] if self.folder.exists() else []
        started = time.perf_counter()
        process = subprocess.Popen(
            [*self._command, "--out", str(self.folder), *resume],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        done = len(self.records())
        while process.poll() is None:
            time.sleep(POLL)
            self._note_peak(process.pid, done + 1)
            if len(self.records()) > done:
                done += 1
                reset_peak(process.pid)
                print(f"{self.folder.name}: step {done}", flush=True)
            if kill_at is not None and self._checkpoint(kill_at).exists():
                time.sleep(kill_after)
                process.send_signal(signal.SIGKILL)
                process.wait()
        _, errors = process.communicate()
        self.seconds += time.perf_counter() - started
        if process.returncode != (0 if kill_at is None else -signal.SIGKILL):
            raise UserError(f"the run ended with {process.returncode}: {errors[-2_000:]}")

    def records(self) -> list[dict[str, Any]]:
        """The lines of metrics written so far."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def trajectories(self, step: int) -> list[dict[str, Any]]:
        path = self.folder / f"trajectories/step-{step:06d}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def weights(self) -> str:
        return hashlib.sha256((self.folder / "model/model.safetensors").read_bytes()).hexdigest()

    def metrics(self) -> list[dict[str, Any]]:
        """All that a step says of itself but for its times."""
        return [
            {name: value for name, value in record.items() if name not in TIMINGS}
            for record in self.records()
        ]

    def conversations(self) -> list[tuple[list[int], list[float]]]:
        """Tokens and log-probabilities of every conversation."""
        return [
            (trajectory["token_ids"], trajectory["logprobs"])
            for record in self.records()
            for trajectory in self.trajectories(record["step"])
        ]

    def _checkpoint(self, step: int) -> Path:
        return self.folder / f"checkpoints/step-{step:06d}"

    def _note_peak(self, pid: int, step: int) -> None:
        last = len(self.records()) if (self.folder / "model").exists() else step
        step = min(step, last)
        self.peaks[step] = max(self.peaks.get(step, 0), peak(pid))


def peak(pid: int) -> int:
    """Bytes: the most that was resident since `reset_peak`; 0 of a process that has ended."""
    return next((int(line.split()[1]) * 1024 for line in _status(pid) if "VmHWM" in line), 0)


def reset_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status(pid: int) -> Iterable[str]:
    return Path(f"/proc/{pid}/status").read_text().splitlines()
