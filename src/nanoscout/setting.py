"""Setting the stage: corpus, index, tools, prompt and model of a recipe, put together in a folder.

What a conversation needs besides the model lies in the run's folder (`index/`, `environment.json`),
so that a trained model is asked in exactly the environment it was trained in.
"""

import asyncio
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nanoscout.dialogue.format import XmlFormat
from nanoscout.dialogue.template import Dialogue
from nanoscout.engine.torch_engine import TorchEngine
from nanoscout.errors import UserError
from nanoscout.files import write_json, write_text
from nanoscout.models import generation_stop_ids, load_model
from nanoscout.questions import QuestionSet
from nanoscout.recipe import FaultSpec, ModelSpec, Recipe, dump_recipe, load_recipe
from nanoscout.rollout.environment import Environment
from nanoscout.rollout.worked_examples import work_examples
from nanoscout.search.engines import open_engine
from nanoscout.search.faults import Faults
from nanoscout.search.index import SearchIndex
from nanoscout.search.protocol import SearchEngine
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

    def training_environments(self, recipe: Recipe) -> list[Environment]:
        """For each stage the environment with the stage's faults of the search engine."""
        return [
            replace(
                self.environment,
                toolbox=_toolbox(recipe, self.search, stage.faults or recipe.search.faults),
            )
            for stage in recipe.stage
        ]


def prepare_folder(recipe: Recipe, folder: Path, questions: QuestionSet) -> None:
    """Make a run's folder with recipe, index and examples; it appears whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        index = SearchIndex.build(questions.passages, partial / "index")
        fmt = XmlFormat()
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


def open_setting(folder: Path, model: str = "") -> tuple[Recipe, Setting]:
    """A run's environment with its trained model, or with another one."""
    for needed in ("recipe.toml", "environment.json", "index"):
        if not (folder / needed).exists():
            raise UserError(f"{folder}: no run here ({needed} is missing); see nanoscout train")
    source = model or trained_model(folder)
    recipe = load_recipe(folder / "recipe.toml")
    spec = recipe.model.model_dump() | {"source": source}
    return recipe, make_setting(recipe, folder, *load_model(ModelSpec(**spec)))


def is_run(folder: str | Path) -> bool:
    return Path(folder, "recipe.toml").exists()


def trained_model(folder: Path) -> str:
    """The folder of a run's trained model; raises UserError where it is not trained yet."""
    if not (folder / "model").exists():
        raise UserError(f"{folder}: not trained yet; finish it with nanoscout train --resume")
    return str(folder / "model")


def make_setting(
    recipe: Recipe, folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Setting:
    """Put a model into the environment that lies in `folder`."""
    prompt = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    index = SearchIndex.open(folder / "index")
    search = open_engine(recipe.search, index)
    environment = Environment(
        dialogue=Dialogue(
            tokenizer,
            XmlFormat(),
            recipe.dialogue.thinking,
            stop_ids=generation_stop_ids(model),
        ),
        toolbox=_toolbox(recipe, search),
        system=prompt["system"],
        examples=tuple(prompt["examples"]),
        repeat_question=recipe.dialogue.repeat_question,
    )
    context = max([recipe.evaluation.context, *(stage.context for stage in recipe.stage)])
    engine = TorchEngine(model, concurrency=recipe.engine.concurrency, context=context)
    return Setting(model, environment, engine, index, search)


def _toolbox(recipe: Recipe, search: SearchEngine, faults: FaultSpec = NO_FAULTS) -> Toolbox:
    spec = recipe.search
    world = Faults(faults, recipe.seed)
    return Toolbox(search_tools(search, spec.results, spec.page_chars, world))
