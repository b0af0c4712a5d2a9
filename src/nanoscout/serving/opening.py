"""What is served: a model by its name or folder, or a run, whose prompt comes with its model."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nanoscout.dialogue.format import open_format
from nanoscout.dialogue.template import Dialogue
from nanoscout.engine.kv_cache import CacheShape
from nanoscout.engine.torch_engine import TorchEngine
from nanoscout.errors import UserError
from nanoscout.models import generation_stop_ids, load_model
from nanoscout.recipe import DialogueSpec, ModelSpec
from nanoscout.recipe_file import load_recipe
from nanoscout.serving.chat_model import ChatModel
from nanoscout.setting import is_run, read_prompt, trained_model

CONTEXT = 32_768
"""Tokens of a conversation where nothing else is said, and the model has so many positions."""
IDLE_BYTES = 2**30
"""Memory of the caches that are kept for conversations that may go on."""


def open_chat_model(
    source: str,
    dialogue: DialogueSpec | None,
    *,
    model: str = "",
    context: int | None,
    concurrency: int,
    idle: int,
) -> ChatModel:
    """`source`: a run or a model; `model`: with a run, the one to serve in its prompt in place of
    its own; `dialogue`: the form of conversations, for a model that is no run's.

    Raises UserError where there is no such model, or its context is smaller than asked for.
    """
    more: dict[str, Any] = {}
    if is_run(source):
        folder = Path(source)
        recipe = load_recipe(folder / "recipe.toml")
        if dialogue is not None:
            raise UserError(f"{source}: is a run, which has its own form of conversations")
        dialogue = recipe.dialogue
        spec = recipe.model.model_copy(update={"source": model or trained_model(folder)})
        system, examples = read_prompt(folder)
        more = {
            "system": system,
            "examples": examples,
            "repeat_question": dialogue.repeat_question,
        }
        name = _name(model) if model else folder.resolve().name
    else:
        if model:
            raise UserError(f"--model is for a run, whose prompt it gets; {source} is none")
        spec = ModelSpec(source=source)
        dialogue = dialogue or DialogueSpec(format="hermes", several_calls=True)
        name = _name(source)
    loaded, tokenizer = load_model(spec)
    engine = TorchEngine(
        loaded, concurrency=concurrency + idle, context=_context(spec.source, loaded, context)
    )
    return ChatModel(
        name=name,
        engine=engine,
        dialogues=_dialogues(dialogue, loaded, tokenizer),
        thinking=dialogue.thinking,
        concurrency=concurrency,
        idle=idle,
        idle_tokens=IDLE_BYTES // CacheShape.of(loaded).token_bytes,
        **more,
    )


def _name(source: str) -> str:
    return Path(source).resolve().name if Path(source).exists() else source


def _context(source: str, model: PreTrainedModel, wanted: int | None) -> int:
    positions = getattr(model.config, "max_position_embeddings", None) or CONTEXT
    if wanted and wanted > positions:
        raise UserError(
            f"{source} has {positions} positions, fewer than --context {wanted}; "
            "nanoscout export --context scales them"
        )
    return wanted or min(positions, CONTEXT)


def _dialogues(
    spec: DialogueSpec, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> dict[bool, Dialogue]:
    """With and without thinking, as far as the model's template lets it be switched."""
    made: dict[bool, Dialogue] = {}
    for thinking in (spec.thinking, not spec.thinking):
        devices = DialogueSpec(thinking=thinking).non_thinking
        try:
            made[thinking] = Dialogue(
                tokenizer,
                open_format(spec),
                thinking,
                stop_ids=generation_stop_ids(model),
                devices=spec.non_thinking if thinking is spec.thinking else devices,
                strip_thinking=thinking and spec.strip_thinking,
            )
        except UserError:
            if thinking is spec.thinking:
                raise
    return made
