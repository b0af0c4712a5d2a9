"""A plan on the terminal, or as JSON."""

import json
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from nanoscout.planning.plan import Plan, make_plan
from nanoscout.planning.questions import Counts
from nanoscout.recipe import Recipe

PARTS = {
    "runtime": "Python and libraries",
    "weights": "weights",
    "reference": "the untrained model (KL)",
    "optimiser": "float32 masters and AdamW",
    "kv_cache": "KV cache",
    "decoding": "decoding",
    "gradients": "gradients",
    "activations": "activations",
}
ROLLING_OUT, LEARNING = ("kv_cache", "decoding"), ("gradients", "activations")


def show_plan(recipe: Recipe, available: str, console: Console, *, as_json: bool) -> None:
    plan = make_plan(recipe, available)
    if as_json:
        print(json.dumps(plan.to_json()))
        return
    for part in _report(plan):
        if isinstance(part, str):
            console.print(part, markup=False, highlight=False, soft_wrap=True)
        else:
            console.print(part)


def _report(plan: Plan) -> Iterator[str | Table]:
    recipe, size = plan.recipe, plan.size
    trained = f"{sum(size.trained) / 1e6:,.1f} M in adapters" if recipe.lora else "all of them"
    yield (
        f"{recipe.name}: {recipe.model.source}, {size.parameters / 1e6:,.0f} M parameters in "
        f"{recipe.model.dtype}, trained: {trained}."
    )
    yield f"Questions: {_counts(plan.questions)}"
    if plan.remark:
        yield f"  ({plan.remark})"
    yield _stages(plan)
    yield (
        f"{sum(stage.steps for stage in plan.stages):,} steps, {recipe.updates:,} updates at most. "
        f"A checkpoint: {_gb(plan.checkpoint_bytes)}. Disk: {_gb(plan.disk_bytes)} for "
        f"{recipe.checkpoint.keep} kept, one being written, and the trained model."
    )
    yield _memory(plan)
    yield f"An open conversation takes {_gb(size.kv_bytes * 1_000)} for each 1,000 tokens."
    yield from _verdict(plan)


def _counts(counts: Counts | None) -> str:
    if counts is None:
        return "not known"
    return ", ".join(f"{hops} {count:,}" for hops, count in counts.items())


def _stages(plan: Plan) -> Table:
    table = Table("stage", "steps", "questions", "rollouts a step", "tokens each", "tokens a step")
    for stage in plan.stages:
        rounds = f", up to {stage.rounds} times" if stage.rounds > 1 else ""
        table.add_row(
            stage.name,
            f"{stage.steps:,}",
            _counts(stage.questions),
            f"{stage.rollouts:,}{rounds}",
            f"up to {stage.context:,}",
            f"up to {stage.tokens:,}{rounds and ' each time'}",
        )
    return table


def _memory(plan: Plan) -> Table:
    """At the most: all conversations fill their context."""
    table = Table("memory, at most", "rolling out", "learning")
    for name, label in PARTS.items():
        if need := getattr(plan.memory, name):
            table.add_row(
                label,
                "" if name in LEARNING else _gb(need),
                "" if name in ROLLING_OUT else _gb(need),
            )
    table.add_section()
    table.add_row("together", _gb(plan.memory.rolling_out), _gb(plan.memory.learning))
    return table


def _verdict(plan: Plan) -> Iterator[str]:
    there = f"{_gb(plan.available)} ({plan.device})"
    if plan.fits:
        yield f"It fits: {_gb(plan.memory.peak)} at most of {there}."
        return
    yield f"It does not fit: up to {_gb(plan.memory.peak)} of {there}."
    if plan.advice:
        yield "To change, from first to last:"
    for advice in plan.advice:
        yield f"  --set {advice.set:40} down to {_gb(advice.peak)} ({advice.cost})"
    if not plan.advice or plan.advice[-1].peak > plan.available:
        yield "Beyond that, only a smaller model, a shorter context or more memory helps."


def _gb(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
