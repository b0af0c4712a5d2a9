"""Hand a model on: an ordinary transformers folder, on request with a longer context by YaRN.

The weights are copied, byte for byte, and never loaded. A longer context is a matter of the
configuration alone (YaRN, Peng et al. 2023, arXiv 2309.00071): the rotary embeddings are told how
many positions the model was made for and by which factor to stretch them. transformers 5, vLLM on
it and llama.cpp's converter read that from `rope_parameters`; transformers 4 and what is built on
it from `rope_scaling` and `rope_theta`. The folder has both, in agreement.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PretrainedConfig

from nanoscout.errors import UserError
from nanoscout.files import whole_folder, write_json
from nanoscout.models import model_files
from nanoscout.setting import is_run, trained_model

FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "LICENSE*")
"""What makes up a model: weights, configuration, tokenizer with its template, licence."""


def export_model(run_or_model: str, out: Path, context: int | None, console: Console) -> None:
    """Write a run's trained model, or any model, to the folder `out`, whole or not at all.

    With `context`, a number of tokens beyond the model's own positions, the copy is scaled to it;
    one within them changes nothing. Raises UserError, before anything is written, for a context
    that the model can't be scaled to, for a folder that is not empty, for a model without
    safetensors.
    """
    if context is not None and context < 1:
        raise UserError(f"--context {context}: a context has at least one token")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty; choose another folder with --out")
    source = trained_model(Path(run_or_model)) if is_run(run_or_model) else run_or_model
    folder, config = model_files(source, FILES)
    _check_weights(folder)
    own = getattr(config, "max_position_embeddings", None) or 0
    scaled = yarn(config, context, run_or_model) if context and context > own else None
    with whole_folder(out) as partial:
        for pattern in FILES:
            for path in folder.glob(pattern):
                shutil.copyfile(path, partial / path.name)
        if scaled:
            _update(
                partial / "config.json",
                max_position_embeddings=context,
                rope_parameters=scaled,
                rope_scaling={key: scaled[key] for key in scaled if key != "rope_theta"},
            )
            if (partial / "tokenizer_config.json").exists():
                _update(partial / "tokenizer_config.json", model_max_length=context)
        theta = (getattr(config, "rope_parameters", None) or {}).get("rope_theta")
        if theta is not None:
            _update(partial / "config.json", rope_theta=theta)
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    console.print(f"{out}: {size:,.0f} MB", highlight=False)
    if scaled:
        console.print(f"YaRN: {own:,} positions x {scaled['factor']:.6g} = {context:,}.")
    elif context:
        console.print(
            f"Not scaled: the model has {own:,} positions, enough for {context:,} tokens."
        )


def yarn(config: PretrainedConfig, context: int, name: str) -> dict[str, Any]:
    """The `rope_parameters` that stretch a model's positions to `context`.

    `name` is what an error calls the model.
    """
    rope = getattr(config, "rope_parameters", None)
    original = getattr(config, "max_position_embeddings", None)
    if not rope or not original:
        raise UserError(f"{name}: it has no rotary position embeddings, so YaRN can't scale it")
    if "rope_theta" not in rope:
        raise UserError(f"{name}: its layers differ in their rotary embeddings; not supported")
    kind = rope.get("rope_type", "default")
    if kind != "default":
        raise UserError(
            f"{name}: its positions are scaled already ({kind}); export the model it was made from"
        )
    return {
        **rope,
        "rope_type": "yarn",
        "factor": context / original,
        "original_max_position_embeddings": original,
    }


def _check_weights(folder: Path) -> None:
    """Raise UserError unless every safetensors file that the model is made of is there."""
    index = folder / "model.safetensors.index.json"
    needed = {"model.safetensors"}
    if index.exists():
        needed = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    for name in sorted(needed):
        if not (folder / name).exists():
            raise UserError(f"{folder}: {name} is missing; only safetensors can be exported")


def _update(path: Path, **values: Any) -> None:
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | values)
