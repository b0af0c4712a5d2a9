"""`nanoscout eval compare`: two cells of results side by side, and the questions that tell them
apart."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from nanoscout.errors import UserError
from nanoscout.evaluation.pairing import comparison, pair
from nanoscout.evaluation.results_folder import CELL, Answers, read_results
from nanoscout.terminal import say

SHOWN = 20
"""Differing questions on the terminal; `--json` has them all."""


def compare_cells(first: Path, second: Path, console: Console, *, as_json: bool) -> dict[str, Any]:
    """Print how the second does against the first on the questions that both answered.

    Raises UserError for a folder without results, or with several cells, and for cells that can't
    be compared (evaluation/pairing.py).
    """
    cells = [_cell(path) for path in (first, second)]
    names = [answers.cell.name for answers in cells]
    if names[0] == names[1]:
        names = [str(first), str(second)]
    found = {"cells": names, **comparison(pair(*cells))}
    if as_json:
        print(json.dumps(found))
    else:
        _show(found, console)
    return found


def _cell(path: Path) -> Answers:
    if (path / CELL).exists():
        _, cells = read_results(path.parent)
        [wanted] = [answers for answers in cells if path.name == answers.cell.name]
        return wanted
    _, cells = read_results(path)
    if len(cells) > 1:
        names = ", ".join(answers.cell.name for answers in cells)
        raise UserError(f"{path} has several cells; name one, as {path}/CELL: {names}")
    return cells[0]


def _show(found: dict[str, Any], console: Console) -> None:
    say(console, f"A: {found['cells'][0]}\nB: {found['cells'][1]}")
    table = Table()
    columns = ("questions", "n", "A right", "B right", "B - A (95% CI)", "only A", "only B", "p")
    for column in columns:
        table.add_column(column, justify="left" if column == "questions" else "right")
    hops = {f"{count} hop": part for count, part in found["by_hops"].items()}
    for name, part in {"all": found, **hops, **found["by_topic"]}.items():
        low, high = part["ci95"]
        table.add_row(
            name,
            str(part["n"]),
            f"{100 * part['first']:.1f}%",
            f"{100 * part['second']:.1f}%",
            f"{part['points']:+.1f} ({low:+.1f} to {high:+.1f})",
            str(part["only_first"]),
            str(part["only_second"]),
            f"{part['p']:.3g}",
        )
    console.print(table)
    console.print("p: McNemar's exact test, two-sided. Interval: paired bootstrap.")
    for differing in found["differ"][:SHOWN]:
        right = "A" if differing["right"] == "first" else "B"
        say(
            console,
            f"{right} alone is right: {differing['question']} (gold: {differing['gold']})\n"
            f"    A: {_said(differing['first'])}   B: {_said(differing['second'])}",
        )
    if len(found["differ"]) > SHOWN:
        console.print(f"... and {len(found['differ']) - SHOWN} more; --json has them all.")


def _said(answer: str | None) -> str:
    return "no answer" if answer is None else " ".join(answer.split())[:200]
