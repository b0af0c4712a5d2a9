"""What does the curriculum buy? Three stages, and other ways to spend their time.

    python benchmarks/ablation.py run answers 0        # one arm, one seed; goes on where it was
    python benchmarks/ablation.py table                # what is there, and in the results already

Every arm asks the same model the same held-out questions before and after. The untrained model is
asked once a seed: a later arm takes the first one's answers over.
"""

import json
import math
import shutil
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from results import RESULTS, ROOT, save
from rich.console import Console
from rich.table import Table

from nanoscout.evaluation.evaluate import EVALUATION, Evaluation
from nanoscout.evaluation.statistics import paired_difference
from nanoscout.questions import load_questions
from nanoscout.recipe import Recipe
from nanoscout.recipe_file import load_recipe
from nanoscout.run import train_run
from nanoscout.setting import prepare_folder

FOLDER = Path("runs/ablation")
SEEDS = (0, 1, 2)
STEPS = (5, 6, 2)
"""Of the three stages."""
PUBLISHED_STEPS = 5
"""A step of as-published with its four updates and its reference model takes about 2.5 times the
quickstart's."""

ARMS = {
    "three-stages": "the quickstart's: mechanics, answers, long; 5, 6 and 2 steps",
    "answers": "stage 2 alone: correctness, 13 steps",
    "mechanics": "stage 1 alone: all four rewards, 13 steps",
    "as-published": "Dr.GRPO, KL .01, 4 updates a batch, substring reward, lr 3e-6",
    "as-published-lr": "the same with the quickstart's lr 6e-5 and gradient norm 1",
    "lora": "three stages with LoRA: rank 16, lr 6e-4",
    "thinking": "three stages, thinking before each turn; 40 more tokens a turn",
}


def recipe_of(arm: str, seed: int) -> Recipe:
    recipe = load_recipe(ROOT / "recipes/quickstart.toml", [f"seed={seed}"]).model_dump(mode="json")
    for stage, steps in zip(recipe["stage"], STEPS, strict=True):
        stage["steps"] = steps
    mechanics, answers, _ = recipe["stage"]
    recipe["name"] = arm
    if arm == "answers":
        recipe["stage"] = [answers | {"steps": sum(STEPS)}]
    elif arm == "mechanics":
        recipe["stage"] = [mechanics | {"steps": sum(STEPS)}]
    elif arm == "lora":
        recipe["lora"] = {"rank": 16, "alpha": 32}
        recipe["optimiser"]["lr"] *= 10
    elif arm == "thinking":
        recipe["dialogue"] |= {"thinking": True, "non_thinking": []}
        for part in (*recipe["stage"], recipe["evaluation"]):
            part["turn_tokens"] += 40
    elif arm.startswith("as-published"):
        published = load_recipe(ROOT / "recipes/as-published.toml")
        theirs = published.stage[0]
        recipe["objective"] = published.objective.model_dump()
        if arm == "as-published":
            recipe["optimiser"] |= {
                "lr": published.optimiser.lr,
                "clip_grad_norm": published.optimiser.clip_grad_norm,
            }
        recipe["stage"] = [
            mechanics
            | {"name": theirs.name, "steps": PUBLISHED_STEPS, "rewards": dict(theirs.rewards)}
            | theirs.model_dump(include={"temperature", "dynamic_sampling"})
        ]
    return Recipe.model_validate(recipe)


def run(arm: str, seed: int) -> None:
    recipe, folder = recipe_of(arm, seed), FOLDER / f"{arm}-{seed}"
    asked = next(iter(sorted(FOLDER.glob(f"*-{seed}/evaluation/before.json"))), None)
    if asked and not folder.exists() and not recipe.dialogue.thinking:
        prepare_folder(recipe, folder, load_questions(recipe.questions, seed))
        (folder / "evaluation").mkdir()
        for name in ("before.jsonl", "before.json"):
            shutil.copy(asked.with_name(name), folder / "evaluation" / name)
    train_run(recipe, folder, resume=True, console=Console())


def table() -> None:
    console, shown = Console(), Table(title="Right answers on 204 held-out questions, in points")
    for column in ("arm", "sampling", *(f"seed {seed}" for seed in SEEDS), "mean (95% CI)", "min."):
        shown.add_column(column)
    path = RESULTS / "ablation.json"
    known = json.loads(path.read_text())["stages"] if path.exists() else {}
    figures: dict[str, Any] = {}
    for arm, meaning in ARMS.items():
        runs = {s: result for s in SEEDS if (result := _result(FOLDER / f"{arm}-{s}"))}
        found = [_figures(arm, runs)] if runs else []
        if arm in known and not runs.keys() & set(known[arm]["seeds"]):
            found.insert(0, known[arm])
        if not found:
            continue
        figures[arm] = {"what": meaning} | (_pooled(*found) if len(found) > 1 else found[0])
        for mode, of_mode in figures[arm]["modes"].items():
            points, (low, high) = of_mode["by_seed"], of_mode["ci95"]
            shown.add_row(
                arm,
                mode,
                *(f"{points[str(s)]:+.1f}" if str(s) in points else "-" for s in SEEDS),
                f"{of_mode['points']:+.1f} ({low:+.1f} to {high:+.1f})",
                f"{figures[arm]['training_minutes']:.1f}",
            )
    console.print(shown)
    save("stages", figures, "ablation")


def _figures(arm: str, runs: dict[int, tuple[Evaluation, Evaluation, float]]) -> dict[str, Any]:
    """Of an arm's runs that are here."""
    modes = {}
    for mode in ("greedy", "sampled"):
        pooled, interval = _points([pair[:2] for pair in runs.values()], mode)
        modes[mode] = {
            "points": pooled,
            "ci95": list(interval),
            "by_seed": {
                str(s): _points([(before, after)], mode)[0]
                for s, (before, after, _) in runs.items()
            },
            "before": mean(_share(before, mode) for before, *_ in runs.values()),
            "after": mean(_share(after, mode) for _, after, _ in runs.values()),
        }
    return {
        "seeds": sorted(runs),
        "modes": modes,
        "training_minutes": mean(seconds for *_, seconds in runs.values()) / 60,
        "an_answer": {str(s): _cost(FOLDER / f"{arm}-{s}", runs[s][1]) for s in runs},
    }


def _pooled(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Of different seeds, such as earlier runs' that are kept in the results alone: each seed has
    questions of its own, so that squares of the intervals' lengths add up."""
    counts = [len(each["seeds"]) for each in (first, second)]

    def weighted(*values: float) -> float:
        return sum(c * value for c, value in zip(counts, values, strict=True)) / sum(counts)

    modes = {}
    for mode, one in first["modes"].items():
        other = second["modes"][mode]
        points = weighted(one["points"], other["points"])
        lengths = [(each["ci95"][1] - each["ci95"][0]) / 2 for each in (one, other)]
        half = math.hypot(*(c * n for c, n in zip(counts, lengths, strict=True))) / sum(counts)
        modes[mode] = {
            "points": points,
            "ci95": [points - half, points + half],
            "by_seed": one["by_seed"] | other["by_seed"],
            "before": weighted(one["before"], other["before"]),
            "after": weighted(one["after"], other["after"]),
        }
    return {
        "seeds": sorted(first["seeds"] + second["seeds"]),
        "modes": modes,
        "training_minutes": weighted(first["training_minutes"], second["training_minutes"]),
        "an_answer": first["an_answer"] | second["an_answer"],
    }


def _result(folder: Path) -> tuple[Evaluation, Evaluation, float] | None:
    """Before, after, and the seconds of training."""
    if not (folder / "summary.json").exists():
        return None
    before, after = (
        EVALUATION.validate_json((folder / "evaluation" / f"{name}.json").read_bytes())
        for name in ("before", "after")
    )
    return before, after, json.loads((folder / "summary.json").read_text())["training_seconds"]


def _cost(folder: Path, after: Evaluation) -> dict[str, float]:
    """Of an answer of the trained model, all modes asked together: sampled tokens, seconds."""
    lines = (folder / "evaluation/after.jsonl").read_text().splitlines()
    answers = sum(map(len, after.outcomes.values()))
    return {
        "tokens": mean(sum(json.loads(line)["sampled"]) for line in lines),
        "seconds": after.seconds / answers,
    }


def _share(evaluation: Evaluation, mode: str) -> float:
    return float(evaluation.summary()[mode]["correct"])


def _points(
    pairs: list[tuple[Evaluation, Evaluation]], mode: str
) -> tuple[float, tuple[float, float]]:
    first = [o.correct for before, _ in pairs for o in before.outcomes[mode]]
    second = [o.correct for _, after in pairs for o in after.outcomes[mode]]
    return paired_difference(first, second)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", arm, seed] if arm in ARMS:
            run(arm, int(seed))
        case ["table"]:
            table()
        case _:
            sys.exit(__doc__)
