"""Writing files so that a kill or a full disk leaves the whole file or none."""

import json
from pathlib import Path
from typing import Any

from nanoscout.errors import UserError


def write_json(path: Path, data: Any) -> None:
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error}") from error
