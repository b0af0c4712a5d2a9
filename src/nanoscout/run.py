"""A run from end to end: evaluate, train, evaluate again, and leave a folder that tells it all.

    runs/NAME/recipe.toml            the resolved recipe
              environment.json       system prompt and worked examples, as the model saw them
              index/                 the search index, so that `ask` needs nothing else
              evaluation/            before.json, after.json, and every conversation (.jsonl)
              metrics.jsonl          one line a step
              grades.sqlite          what the judge said, where there is one
              trajectories/          every training conversation, one file a step
              checkpoints/           the newest checkpoint
              model/                 the trained model, an ordinary transformers folder
              curves.png, summary.json

Each part is written once and found again by a resumed run.
"""

import asyncio
import json
import resource
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from nanoscout import memory
from nanoscout.errors import UserError
from nanoscout.evaluation.comparison import compare, comparison_table, evaluation_table
from nanoscout.evaluation.curves import draw_curves
from nanoscout.evaluation.evaluate import EVALUATION, Evaluation, evaluate
from nanoscout.files import write_json, write_text
from nanoscout.judge.judge import Judge
from nanoscout.models import load_model, save_model
from nanoscout.models.lora import add_adapters, merge_adapters
from nanoscout.progress import ConsoleReporter
from nanoscout.questions import QuestionSet, load_questions
from nanoscout.recipe import Recipe
from nanoscout.recipe_file import load_recipe
from nanoscout.rewards import find_reward
from nanoscout.rlvr.optimiser import adamw
from nanoscout.rlvr.trainer import Trainer
from nanoscout.setting import Setting, make_setting, open_setting, prepare_folder


def train_run(recipe: Recipe, folder: Path, *, resume: bool, console: Console) -> dict[str, Any]:
    """Carry a run out, or what is left of it; returns its summary."""
    for stage in recipe.stage:
        for name in stage.rewards:
            find_reward(name)
    adamw(recipe.optimiser)  # so that a missing extra is told before the work
    _check_folder(recipe, folder, resume)
    if (folder / "summary.json").exists():
        console.print(f"{folder} is a finished run.")
        return _show(recipe, folder, console)
    judge = _open_judge(recipe, folder)
    questions = load_questions(recipe.questions, recipe.seed)
    console.print(
        f"{len(questions.passages):,} pages, {len(questions.train):,} training and "
        f"{len(questions.held_out):,} held-out questions."
    )
    if recipe.optimiser.checkpoint_layers:  # which is to say that memory matters more than time
        memory.keep_few_products()
    model, tokenizer = load_model(recipe.model)
    if recipe.optimiser.attention == "flex" and model.device.type != "cuda":
        raise UserError(
            "optimiser.attention = 'flex' is for CUDA devices, and the model is on "
            f"{model.device}; leave it out"
        )
    if not (folder / "recipe.toml").exists():
        prepare_folder(recipe, folder, questions)
    setting = make_setting(recipe, folder, model, tokenizer)
    thinking = _thinking(recipe, setting)
    console.print(f"Thinking: {thinking}.")
    with ConsoleReporter(recipe, console) as reporter:
        before = _evaluate_once("before", recipe, folder, setting, questions, reporter)
        adapted = add_adapters(setting.model, recipe.lora, recipe.seed) if recipe.lora else None
        trainer = Trainer(
            recipe,
            setting.model,
            partial(setting.training_environment, recipe),
            setting.engine,
            questions.train,
            folder,
            reporter,
            judge,
        )
        reporter.resume_at(trainer.position.step)
        asyncio.run(trainer.train())
        if adapted:
            merge_adapters(adapted)
        after = _evaluate_once("after", recipe, folder, setting, questions, reporter)
    save_model(setting.model, setting.environment.dialogue.tokenizer, folder / "model")
    summary = {
        "before": before.summary(),
        "after": after.summary(),
        "difference": compare(before, after),
        "steps": trainer.position.step,
        "seconds": before.seconds + trainer.position.seconds + after.seconds,
        "training_seconds": trainer.position.seconds,
        "peak_memory_mb": _peak_memory_mb(),
        "seed": recipe.seed,
        "model": recipe.model.source,
        "thinking": thinking,
    }
    write_json(folder / "summary.json", summary)
    return _show(recipe, folder, console)


def evaluate_run(
    folder: Path,
    model: str,
    limit: int | None,
    out: Path | None,
    console: Console,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Ask a run's held-out questions: of its trained model, or of any other one.

    `overrides`: what of the run's recipe is otherwise this time, as `key=value`.
    """
    recipe, setting = open_setting(folder, model, overrides)
    questions = load_questions(recipe.questions, recipe.seed).held_out[:limit]
    with ConsoleReporter(recipe, console) as reporter:
        reporter.start_evaluation(len(questions) * recipe.evaluation.ways)
        evaluation = asyncio.run(
            evaluate(
                questions,
                setting.environment,
                setting.engine,
                recipe.evaluation,
                seed=recipe.seed,
                on_done=reporter.episode_done,
            )
        )
    figures = {
        "run": str(folder),
        "model": model or str(folder / "model"),
        "search": setting.search.name,
        **evaluation.summary(),
        "seconds": evaluation.seconds,
    }
    console.print(evaluation_table(evaluation))
    if out is not None:
        write_json(out, figures)
    return figures


def _open_judge(recipe: Recipe, folder: Path) -> Judge | None:
    """The judge, asked a first time, where a stage needs one."""
    if recipe.judge is None or not any("judge" in stage.rewards for stage in recipe.stage):
        return None
    judge = Judge(recipe.judge, folder / "grades.sqlite")
    asyncio.run(judge.check())
    return judge


def _check_folder(recipe: Recipe, folder: Path, resume: bool) -> None:
    """Raise UserError unless `folder` is free, or holds this very run and may be gone on with."""
    stored = folder / "recipe.toml"
    if not stored.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is not empty and holds no run; choose another with --out")
        return
    if load_recipe(stored) != recipe:
        raise UserError(
            f"{folder} holds a run of another recipe (see {stored}); choose another with --out"
        )
    if not resume:
        raise UserError(
            f"{folder} already holds this run; add --resume to go on with it, or choose another "
            "folder with --out"
        )


def _thinking(recipe: Recipe, setting: Setting) -> str:
    """Whether the model thinks in this run, or what keeps it from thinking."""
    dialogue = setting.environment.dialogue
    if dialogue.thinking:
        return "on, stripped from the history" if dialogue.strips_thinking else "on"
    rewarded = any("no_thinking" in stage.rewards for stage in recipe.stage)
    devices = [*dialogue.active_devices, *(["reward"] if rewarded else [])]
    return f"off by {', '.join(devices)}" if devices else "off by nothing but the model itself"


def _evaluate_once(
    name: str,
    recipe: Recipe,
    folder: Path,
    setting: Setting,
    questions: QuestionSet,
    reporter: ConsoleReporter,
) -> Evaluation:
    path = folder / "evaluation" / f"{name}.json"
    if path.exists():
        return EVALUATION.validate_json(path.read_bytes())
    path.parent.mkdir(exist_ok=True)
    console = reporter.console
    console.print(f"Evaluating {name} training ...")
    reporter.start_evaluation(len(questions.held_out) * recipe.evaluation.ways)
    evaluation = asyncio.run(
        evaluate(
            questions.held_out,
            setting.environment,
            setting.engine,
            recipe.evaluation,
            seed=recipe.seed,
            on_done=reporter.episode_done,
            keep=path.with_suffix(".jsonl"),
        )
    )
    console.print(evaluation_table(evaluation))
    console.print(f"({evaluation.seconds:.0f} s)")
    write_text(path, EVALUATION.dump_json(evaluation).decode())
    return evaluation


def _show(recipe: Recipe, folder: Path, console: Console) -> dict[str, Any]:
    """Draw and print a finished run's result."""
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    before, after = (
        EVALUATION.validate_json((folder / "evaluation" / f"{name}.json").read_bytes())
        for name in ("before", "after")
    )
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    draw_curves(
        [json.loads(line) for line in lines],
        summary["before"],
        summary["after"],
        folder / "curves.png",
        f"{recipe.name}: {recipe.model.source}, seed {recipe.seed}",
    )
    console.print(comparison_table(before, after))
    console.print(
        f"{summary['steps']} steps, {summary['seconds'] / 60:.1f} minutes, "
        f"peak memory {summary['peak_memory_mb'] / 1000:.1f} GB. "
        f"Curves: {folder / 'curves.png'}   Figures: {folder / 'summary.json'}"
    )
    example = json.loads((folder / "evaluation" / "after.jsonl").read_text().split("\n", 1)[0])
    console.print(
        f'Ask the new model:  nanoscout ask --run {folder} "{example["question"]["text"]}"',
        soft_wrap=True,
        highlight=False,
    )
    return summary


def _peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (peak if sys.platform == "darwin" else peak * 1024) / 1e6
