"""Setting the stage: corpus, index, tools, prompt and model of a recipe, put together in a folder.

What a conversation needs besides the model lies in the run's folder (`index/`, `environment.json`),
so that a trained model is asked in exactly the environment it was trained in.
"""

import asyncio
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nanoscout.dialogue.examples import Message
from nanoscout.dialogue.format import open_format
from nanoscout.dialogue.template import Dialogue
from nanoscout.engine.torch_engine import TorchEngine
from nanoscout.errors import UserError
from nanoscout.files import write_json, write_text
from nanoscout.models import generation_stop_ids, load_model
from nanoscout.questions import QuestionSet
from nanoscout.recipe import FaultSpec, ModelSpec, Recipe, StageSpec
from nanoscout.recipe_file import dump_recipe, load_recipe
from nanoscout.rollout.environment import Environment
from nanoscout.rollout.worked_examples import work_examples
from nanoscout.search.encoder import Encoder
from nanoscout.search.engines import open_engine
from nanoscout.search.faults import Faults
from nanoscout.search.index import SearchIndex
from nanoscout.search.protocol import SearchEngine
from nanoscout.search.rerank import Reranker
from nanoscout.search.vectors import encode_passages
from nanoscout.tools.search_tools import search_tools
from nanoscout.tools.toolbox import Toolbox

NO_FAULTS = FaultSpec()


@dataclass(frozen=True)
class Setting:
    """A model in its environment, ready to converse."""

    model: PreTrainedModel
    environment: Environment
    engine: TorchEngine
    index: SearchIndex
    search: SearchEngine
    engines_by_preview: dict[int, SearchEngine]
    """The search engines opened so far, by the length of their previews."""

    def training_environment(self, recipe: Recipe, stage: StageSpec) -> Environment:
        """The environment as a stage has it: its previews, its faults, its system prompt."""
        chars = stage.preview_chars or recipe.search.preview_chars
        if chars not in self.engines_by_preview:
            spec = recipe.search.model_copy(update={"preview_chars": chars})
            self.engines_by_preview[chars] = open_engine(spec, self.index)
        search = self.engines_by_preview[chars]
        return replace(
            self.environment,
            toolbox=_toolbox(recipe, search, stage.faults or recipe.search.faults),
            system=self.environment.system if stage.system is None else stage.system,
        )


def prepare_folder(recipe: Recipe, folder: Path, questions: QuestionSet) -> None:
    """Make a run's folder with recipe, index and examples; it appears whole or not at all."""
    encoder = Encoder(recipe.search.encoder) if recipe.search.ranking != "lexical" else None
    if recipe.search.reranker:
        Reranker(recipe.search.reranker)  # so that a wrong one is refused before the work
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        index = SearchIndex.build(questions.passages, partial / "index")
        if encoder:
            encode_passages(index, encoder)
        fmt = open_format(recipe.dialogue)
        toolbox = _toolbox(recipe, open_engine(recipe.search, index))
        examples = asyncio.run(
            work_examples(recipe.dialogue, questions.examples, questions.passages, toolbox, fmt)
        )
        system = recipe.dialogue.system or fmt.system_prompt(toolbox.specs)
        write_json(partial / "environment.json", {"system": system, "examples": examples})
        write_text(partial / "recipe.toml", dump_recipe(recipe))
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def open_setting(
    folder: Path, model: str = "", overrides: Sequence[str] = ()
) -> tuple[Recipe, Setting]:
    """A run's environment with its trained model, or with another one.

    `overrides`: what of the run's recipe is otherwise this time, as `key=value`.
    """
    for needed in ("recipe.toml", "environment.json", "index"):
        if not (folder / needed).exists():
            raise UserError(f"{folder}: no run here ({needed} is missing); see nanoscout train")
    source = model or trained_model(folder)
    recipe = load_recipe(folder / "recipe.toml", list(overrides))
    spec = recipe.model.model_dump() | {"source": source}
    return recipe, make_setting(recipe, folder, *load_model(ModelSpec(**spec)))


def is_run(folder: str | Path) -> bool:
    return Path(folder, "recipe.toml").exists()


def trained_model(folder: Path) -> str:
    """The folder of a run's trained model; raises UserError where it is not trained yet."""
    if not (folder / "model").exists():
        raise UserError(f"{folder}: not trained yet; finish it with nanoscout train --resume")
    return str(folder / "model")


def read_prompt(folder: Path) -> tuple[str, tuple[list[Message], ...]]:
    """A run's system prompt and worked examples."""
    prompt = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    return prompt["system"], tuple(prompt["examples"])


def make_setting(
    recipe: Recipe, folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Setting:
    """Put a model into the environment that lies in `folder`."""
    system, examples = read_prompt(folder)
    index = SearchIndex.open(folder / "index")
    search = open_engine(recipe.search, index)
    environment = Environment(
        dialogue=Dialogue(
            tokenizer,
            open_format(recipe.dialogue),
            recipe.dialogue.thinking,
            stop_ids=generation_stop_ids(model),
            devices=recipe.dialogue.non_thinking,
            strip_thinking=recipe.dialogue.strip_thinking,
        ),
        toolbox=_toolbox(recipe, search),
        system=system,
        examples=examples,
        repeat_question=recipe.dialogue.repeat_question,
    )
    context = max([recipe.evaluation.context, *(stage.context for stage in recipe.stage)])
    engine = TorchEngine(model, concurrency=recipe.engine.concurrency, context=context)
    engines = {recipe.search.preview_chars: search}
    return Setting(model, environment, engine, index, search, engines)


def _toolbox(recipe: Recipe, search: SearchEngine, faults: FaultSpec = NO_FAULTS) -> Toolbox:
    spec = recipe.search
    world = Faults(faults, recipe.seed)
    return Toolbox(search_tools(search, spec.results, spec.page_chars, world))
