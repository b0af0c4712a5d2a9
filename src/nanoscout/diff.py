"""Two runs side by side: where their recipes differ, what came of it, their curves in one picture.

Recipes are compared as they were resolved, defaults filled in, field by field. Held-out answers
after training are compared question by question where both runs were asked the same ones.
"""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from nanoscout.errors import UserError
from nanoscout.evaluation.comparison import compare
from nanoscout.evaluation.evaluate import EVALUATION, Evaluation
from nanoscout.evaluation.overlay import draw_overlay
from nanoscout.files import write_json
from nanoscout.recipe_file import load_recipe
from nanoscout.setting import is_run

ABSENT = "-"


def diff_runs(
    first: Path, second: Path, out: Path | None, console: Console, *, as_json: bool
) -> dict[str, Any]:
    """Print the differences and write them to `out`: diff.json and, once there is a step, diff.png.

    `out` is by default `diff-FIRST-SECOND` beside the first run. Raises UserError for a folder that
    holds no run.
    """
    runs = (first, second)
    for run in runs:
        if not is_run(run):
            raise UserError(f"{run}: no run here (recipe.toml is missing); see nanoscout train")
    names = _names(first, second)
    steps = [_steps(run) for run in runs]
    found: dict[str, Any] = {
        "runs": [str(run) for run in runs],
        "fields": _fields(first, second),
        "results": [_summary(run) for run in runs],
        "difference": _difference(first, second),
    }
    folder = out or first.resolve().parent / f"diff-{first.resolve().name}-{second.resolve().name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} can't be made: {error}") from error
    write_json(folder / "diff.json", found)
    if any(steps):
        draw_overlay(
            dict(zip(names, steps, strict=True)),
            folder / "diff.png",
            _title(found["fields"], names),
        )
    if as_json:
        print(json.dumps(found))
    else:
        _print(found, names, console)
        console.print(f"In {folder}: {', '.join(sorted(p.name for p in folder.glob('diff.*')))}")
    return found


def _fields(first: Path, second: Path) -> dict[str, list[Any]]:
    """{"optimiser.lr": [1e-06, 3e-06], ...}; None for a field that one of the two has not."""
    one, other = (
        _flat(load_recipe(run / "recipe.toml").model_dump(mode="json", exclude_none=True))
        for run in (first, second)
    )
    return {
        key: [one.get(key), other.get(key)]
        for key in dict.fromkeys([*one, *other])
        if one.get(key) != other.get(key)
    }


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Leaves by dotted key, as `train --set` names them; lists count from 0."""
    if not isinstance(value, dict | list) or not value:
        return {key: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {
        leaf: found
        for name, part in items
        for leaf, found in _flat(part, f"{key}.{name}".removeprefix(".")).items()
    }


def _summary(run: Path) -> dict[str, Any] | None:
    """A finished run's summary.json."""
    path = run / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _difference(first: Path, second: Path) -> dict[str, Any] | None:
    """Right answers after training, the second run's against the first's, in points."""
    paths = [run / "evaluation" / "after.json" for run in (first, second)]
    if not all(path.exists() for path in paths):
        return None
    one, other = (EVALUATION.validate_json(path.read_bytes()) for path in paths)
    shared = {
        mode: outcomes
        for mode, outcomes in one.outcomes.items()
        if {o.question_id for o in outcomes}
        & {o.question_id for o in other.outcomes.get(mode, [])}
    }  # fmt: skip
    return compare(Evaluation(shared, one.unavailable, one.seconds), other) or None


def _steps(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; one that a running training is just writing is left out."""
    path = run / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def _names(first: Path, second: Path) -> tuple[str, str]:
    """What to call the runs: by their folders, in full where these have the same name."""
    one, other = first.resolve().name, second.resolve().name
    return (one, other) if one != other else (str(first), str(second))


def _title(fields: dict[str, list[Any]], names: tuple[str, str]) -> str:
    told = [f"{key} {_text(one)} / {_text(other)}" for key, (one, other) in fields.items()]
    what = "; ".join(told) if len(told) <= 2 else f"{len(told)} fields differ"
    return f"{names[0]} and {names[1]}: {what or 'the same recipe'}"


def _print(found: dict[str, Any], names: tuple[str, str], console: Console) -> None:
    fields = Table(title="Where the recipes differ")
    for column in ("field", *names):
        fields.add_column(column, overflow="fold")
    for key, values in found["fields"].items():
        fields.add_row(key, *map(_text, values))
    if found["fields"]:
        console.print(fields)
    else:
        console.print("The recipes are the same.")
    results = Table(title="Results")
    for column in ("", *names):
        results.add_column(column, justify="right" if column else "left")
    for label, cells in _results(found["results"]).items():
        results.add_row(label, *cells)
    if found["difference"]:
        for mode, part in found["difference"].items():
            low, high = part["ci95"]
            points = f"{part['points']:+.1f} ({low:+.1f} to {high:+.1f})"
            results.add_row(f"{mode}: difference (95% CI, {part['n']} questions)", "", points)
    if results.row_count:
        console.print(results)
    for name, result in zip(names, found["results"], strict=True):
        if result is None:
            console.print(f"{name} is not finished.")


def _results(summaries: list[dict[str, Any] | None]) -> dict[str, list[str]]:
    """Rows of the table: right answers before and after by way of sampling, steps, time, memory."""
    given = [summary or {} for summary in summaries]
    modes = dict.fromkeys(mode for summary in given for mode in summary.get("after", {}))
    rows = {
        f"{mode}: right {when}": [_percent(s.get(when, {}).get(mode)) for s in given]
        for mode in modes
        for when in ("before", "after")
    }
    if any(given):
        rows["steps"] = [str(s.get("steps", ABSENT)) for s in given]
        rows["minutes"] = [f"{s['seconds'] / 60:.1f}" if s else ABSENT for s in given]
        rows["peak memory (GB)"] = [
            f"{s['peak_memory_mb'] / 1000:.1f}" if s else ABSENT for s in given
        ]
    return rows


def _percent(result: dict[str, Any] | None) -> str:
    return f"{100 * result['correct']:.1f}% of {result['n']}" if result else ABSENT


def _text(value: Any) -> str:
    return ABSENT if value is None else value if isinstance(value, str) else json.dumps(value)
