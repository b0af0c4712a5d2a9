"""Checkpoints: everything a run needs to go on as if it had never stopped.

A checkpoint is written beside its place and renamed into it, so that a folder with a checkpoint's
name is always a whole one; older ones are removed only after that.
"""

import json
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from nanoscout.errors import UserError

_DAMAGE = (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError)
"""What torch.load and json.loads raise for a file that is not what it should be."""

_NAME = re.compile(r"step-(\d{6})")


def save_checkpoint(
    folder: Path, step: int, tensors: dict[str, Any], state: dict[str, Any], keep: int = 1
) -> Path:
    """Write `folder/step-NNNNNN` atomically; of the others the newest `keep` - 1 stay.

    `tensors` go to tensors.pt (torch.save), `state` to state.json. If it cannot be written (a
    full disk), raises UserError and leaves the last good checkpoint as it is.
    """
    final = folder / f"step-{step:06d}"
    partial = folder / f"{final.name}.partial"
    try:
        _remove(partial)
        partial.mkdir(parents=True)
        with open(partial / "tensors.pt", "wb") as file:
            torch.save(tensors, file)
            file.flush()
            os.fsync(file.fileno())
        with open(partial / "state.json", "w", encoding="utf-8") as text:
            json.dump(state, text)
            text.flush()
            os.fsync(text.fileno())
        _remove(final)
        partial.rename(final)
    except (OSError, RuntimeError) as error:
        # torch.save reports a failed write as a RuntimeError of its archive writer.
        shutil.rmtree(partial, ignore_errors=True)
        last = latest_checkpoint(folder)
        kept = f"the last good one is {last}" if last else "there is none before it"
        raise UserError(f"checkpoint {final} could not be written ({error}); {kept}") from error
    kept_paths = sorted(path for path in folder.glob("step-*") if _step(path) is not None)[-keep:]
    for other in folder.glob("step-*"):
        if other not in kept_paths:
            _remove(other)
    return final


def latest_checkpoint(folder: Path, before: int | None = None) -> Path | None:
    """The checkpoint of the highest step (below `before`, if given), or None."""
    found = [
        path
        for path in folder.glob("step-*")
        if (step := _step(path)) is not None and (before is None or step < before)
    ]
    return max(found, key=lambda path: path.name, default=None)


def _step(path: Path) -> int | None:
    name = _NAME.fullmatch(path.name)
    return int(name[1]) if name else None


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(tensors, state) as they were given to `save_checkpoint`; tensors on the CPU."""
    try:
        tensors = torch.load(path / "tensors.pt", map_location="cpu", weights_only=True)
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except _DAMAGE as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise UserError(f"checkpoint {path} cannot be read ({reason})") from error
    return tensors, state


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
