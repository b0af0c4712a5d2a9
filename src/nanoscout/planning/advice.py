"""What to change in a recipe whose run does not fit into memory, and what that costs.

First what bounds the learner is changed, cheapest first, until learning fits; then fewer
conversations are kept open until rolling out does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nanoscout.planning.memory import Memory
from nanoscout.recipe import Recipe

LEAST_TOKENS = 512
"""Of a micro-batch."""
WORTH = 0.02
"""Share of the need that a change must save to be named."""


@dataclass(frozen=True, slots=True)
class Advice:
    set: str
    """As an argument of `--set`."""
    cost: str
    peak: float
    """Bytes, with this change and those before it."""


@dataclass(frozen=True, slots=True)
class _Change:
    key: str
    cost: str
    value: Callable[[Recipe], Any]
    """What to set; None where the recipe has it already, or it cannot go further."""


_LEARNING = (
    _Change(
        "model.dtype",
        "a little precision",
        lambda recipe: "bfloat16" if recipe.model.dtype == "float32" else None,
    ),
    _Change(
        "optimiser.checkpoint_layers",
        "a third more work in learning",
        lambda recipe: None if recipe.optimiser.checkpoint_layers else True,
    ),
    _Change(
        "optimiser.microbatch_tokens",
        "slower learning, the same gradient",
        lambda recipe: _half(recipe.optimiser.microbatch_tokens, LEAST_TOKENS),
    ),
    _Change(
        "optimiser.state",
        "moments of 8 bits; needs the extra eightbit",
        lambda recipe: "int8" if recipe.optimiser.state == "float32" and not recipe.lora else None,
    ),
    _Change(
        "lora.rank",
        "adapters are trained, not all weights",
        lambda recipe: None if recipe.lora else 16,
    ),
    _Change(
        "objective.kl",
        "nothing holds the model near where it began",
        lambda recipe: 0.0 if recipe.objective.kl else None,
    ),
)
_ROLLING_OUT = _Change(
    "engine.concurrency", "slower rollouts", lambda recipe: _half(recipe.engine.concurrency, 1)
)


def advise(
    recipe: Recipe, limit: float, memory_of: Callable[[Recipe], Memory]
) -> tuple[Advice, ...]:
    """Changes until the need is within `limit`, or nothing helps further; none where it fits.

    A change that saves next to nothing of the moment it is for is left out.
    """
    made: dict[str, Advice] = {}

    def make(change: _Change, need: Callable[[Memory], float]) -> None:
        nonlocal recipe
        now = need(memory_of(recipe))
        while now > limit and (value := change.value(recipe)) is not None:
            changed = _with(recipe, change.key, value)
            memory = memory_of(changed)
            if need(memory) > now * (1 - WORTH):
                return
            recipe, now = changed, need(memory)
            made[change.key] = Advice(f"{change.key}={_toml(value)}", change.cost, memory.peak)

    for change in _LEARNING:
        make(change, lambda memory: memory.learning)
    make(_ROLLING_OUT, lambda memory: memory.rolling_out)
    return tuple(made.values())


def _half(value: int, least: int) -> int | None:
    return max(least, value // 2) if value > least else None


def _with(recipe: Recipe, key: str, value: Any) -> Recipe:
    section, name = key.split(".")
    data = recipe.model_dump(exclude_none=True)
    return Recipe.model_validate(data | {section: data.get(section, {}) | {name: value}})


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
