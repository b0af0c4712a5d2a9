"""Answers of the open web on disk: saves asking again, and repeats an evaluation without a network.

    off          nothing is kept
    read_write   answers are kept, and stand for a week
    record       every answer is kept and stands, so that a repeated request has one answer only
    replay       what was recorded is all there is; another request is an error that names it

A folder holds one JSON file a request: the request, the status, when it was answered, the answer.
A passing failure (a time-out, too many requests) stands in a recording only: while it is made, the
same request goes out again. Files appear whole, and any number of processes share a folder.
"""

import asyncio
import hashlib
import json
import os
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

from nanoscout.errors import UserError

Mode = Literal["off", "read_write", "record", "replay"]

MAX_AGE = timedelta(days=7)


@dataclass(frozen=True)
class Answer:
    status: int
    """As in HTTP; 0 where nothing answered."""
    content: dict[str, Any]

    @property
    def passing(self) -> bool:
        """Whether the same request may be answered otherwise in a moment."""
        return self.status in (0, 408, 425, 429) or self.status >= 500


class Cache:
    def __init__(self, mode: Mode, folder: Path):
        self._mode = mode
        self._folder = folder
        self._turns: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()
        if mode == "replay" and not folder.is_dir():
            raise UserError(f"{folder}: no recording here; make one with search.cache=record")

    async def answer(self, request: dict[str, Any], ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """The kept answer, or that of `ask`. The same request at the same time goes out once.

        Raises UserError for a request that a replay has no answer to.
        """
        if self._mode == "off":
            return await ask()
        path = self._path(request)
        turn = self._turns.setdefault(path, asyncio.Lock())
        async with turn:
            kept = self._read(path, request)
            if kept is not None:
                return kept
            if self._mode == "replay":
                asked = json.dumps(request, ensure_ascii=False)
                raise UserError(f"{self._folder}: the recording has no answer to {asked}")
            answer = await ask()
            if self._mode == "record" or not answer.passing:
                self._write(path, request, answer)
            return answer

    def _path(self, request: dict[str, Any]) -> Path:
        text = json.dumps(request, sort_keys=True)
        kind = next(iter(request))
        return self._folder / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"

    def _read(self, path: Path, request: dict[str, Any]) -> Answer | None:
        """The kept answer that counts; in a replay whatever was recorded."""
        try:
            entry = json.loads(path.read_bytes())
            answer = Answer(int(entry["status"]), dict(entry["answer"]))
            age = datetime.now(UTC) - datetime.fromisoformat(entry["when"])
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError):
            if self._mode == "read_write":
                return None
            raise UserError(f"{path}: no recorded answer; delete this file and record it") from None
        if self._mode == "replay":
            return answer
        if answer.passing or (self._mode == "read_write" and age > MAX_AGE):
            return None
        return answer

    def _write(self, path: Path, request: dict[str, Any], answer: Answer) -> None:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        entry = {
            "request": request,
            "status": answer.status,
            "when": when,
            "answer": answer.content,
        }
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, partial = tempfile.mkstemp(dir=self._folder, suffix=".partial")
            try:
                with open(handle, "w", encoding="utf-8") as file:
                    json.dump(entry, file, indent=1, ensure_ascii=False)
                os.replace(partial, path)
            except BaseException:
                os.unlink(partial)
                raise
        except OSError as error:
            raise UserError(
                f"{path} could not be written: {error.strerror}; search.cache=off keeps nothing"
            ) from error
