"""The models of an evaluation: a run's, in the prompt that it was trained in, or any other.

A model that is no run is asked in the prompt of the first run beside it, so that a trained model
and the one it was made from are asked alike; without a run beside it, in the default prompt.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nanoscout.dialogue.format import open_format
from nanoscout.dialogue.template import Dialogue
from nanoscout.engine.torch_engine import TorchEngine
from nanoscout.errors import UserError
from nanoscout.evaluation.agents.terms import InProcess
from nanoscout.models import generation_stop_ids, load_model
from nanoscout.recipe import DialogueSpec, ModelSpec, Recipe, SearchSpec
from nanoscout.recipe_file import load_recipe
from nanoscout.rollout.environment import Environment
from nanoscout.search.engines import open_engine
from nanoscout.setting import is_run, open_setting, trained_model
from nanoscout.tools.search_tools import search_tools
from nanoscout.tools.toolbox import Toolbox

CLOSED_BOOK = (
    "Answer the question from memory.\n<answer>...</answer> The final answer, as short as possible."
)
THINKING_VALUES = {
    True: ["dialogue.thinking=true", "dialogue.non_thinking=[]"],
    False: [
        "dialogue.thinking=false",
        "dialogue.strip_thinking=false",
        'dialogue.non_thinking=["empty_block", "ban"]',
    ],
}
"""What makes a recipe think, or not, as its defaults have it."""


@dataclass(frozen=True)
class Entrant:
    name: str
    """What tables call it."""
    source: str
    """A model's folder or name."""
    prompt: Path | None
    """The run whose prompt it is asked in; None: the default one."""
    serve: tuple[str, ...] = ()
    """The words after `nanoscout serve` that serve it."""

    @property
    def checksum(self) -> str:
        """Of all files of the model and its prompt; of a model that is no folder, its name."""
        folder, prompt = Path(self.source), self.prompt
        parts = sorted(path for path in folder.glob("*") if path.is_file())
        if prompt is not None:
            parts += [prompt / "recipe.toml", prompt / "environment.json"]
        digest = hashlib.sha256()
        for path in parts:
            digest.update(path.name.encode() + b"\0")
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return f"{digest.hexdigest()}" if folder.is_dir() else f"{self.source} {digest.hexdigest()}"


def entrants(given: Sequence[str]) -> list[Entrant]:
    """One for each RUN_OR_MODEL. Raises UserError for a run without a model, and for doubles."""
    first = next((Path(name) for name in given if is_run(name)), None)
    found = []
    for name, label in zip(given, labels(given), strict=True):
        if is_run(name):
            found.append(Entrant(label, trained_model(Path(name)), Path(name), (name,)))
        else:
            serve = (name,) if first is None else (str(first), "--model", name)
            found.append(Entrant(label, name, first, serve))
    return found


def labels(given: Sequence[str]) -> list[str]:
    """Short names that can name a folder: the last part of a path, or all of it where it must.

    Raises UserError where two are the same.
    """
    short = [_label(Path(name).resolve().name if Path(name).exists() else name) for name in given]
    full = [_label(name) for name in given]
    found = [one if short.count(one) == 1 else all_ for one, all_ in zip(short, full, strict=True)]
    for name in found:
        if found.count(name) > 1:
            raise UserError(f"{name}: named twice among the models")
    return found


def _label(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.")[-80:] or "model"


def open_in_process(
    entrant: Entrant,
    search: SearchSpec,
    thinking: bool,
    overrides: Sequence[str],
    *,
    concurrency: int,
    context: int,
    closed_book: bool,
) -> InProcess:
    """The model with its prompt and its tools, for the native agent.

    `overrides`: of the recipe of the run that the prompt is from.
    """
    if entrant.prompt is None:
        where = _plain(entrant.source, search, thinking, closed_book, concurrency, context)
    else:
        recipe = load_recipe(entrant.prompt / "recipe.toml", list(overrides))
        own = [*overrides, *_searching(search)]
        if recipe.dialogue.thinking != thinking:
            own += THINKING_VALUES[thinking]
        _, setting = open_setting(entrant.prompt, entrant.source, own)
        where = InProcess(setting.environment, setting.engine)
    return replace(where, environment=_from_memory(where.environment)) if closed_book else where


def scene(given: Sequence[str], overrides: Sequence[str]) -> Recipe | None:
    """The recipe of the first run: its limits, sampling and result sizes hold for all models."""
    for name in given:
        if is_run(name):
            return load_recipe(Path(name, "recipe.toml"), list(overrides))
    if overrides:
        raise UserError("--set: there is no run among the models whose recipe it could change")
    return None


def _searching(search: SearchSpec) -> list[str]:
    """The overrides that make a recipe search like this."""
    fields = search.model_dump(mode="json", exclude={"faults"})
    return [f"search.{key}={_toml(value)}" for key, value in fields.items()]


def _plain(
    source: str,
    search: SearchSpec,
    thinking: bool,
    closed_book: bool,
    concurrency: int,
    context: int,
) -> InProcess:
    model, tokenizer = load_model(ModelSpec(source=source))
    spec = DialogueSpec(thinking=thinking)
    fmt = open_format(spec)
    tools = (
        []
        if closed_book
        else search_tools(open_engine(search, None), search.results, search.page_chars)
    )
    toolbox = Toolbox(tools)
    environment = Environment(
        dialogue=Dialogue(
            tokenizer,
            fmt,
            thinking,
            stop_ids=generation_stop_ids(model),
            devices=spec.non_thinking,
        ),
        toolbox=toolbox,
        system=fmt.system_prompt(toolbox.specs),
        repeat_question=True,
    )
    return InProcess(environment, TorchEngine(model, concurrency=concurrency, context=context))


def _from_memory(environment: Environment) -> Environment:
    return replace(environment, toolbox=Toolbox([]), system=CLOSED_BOOK, examples=())


def _toml(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)
