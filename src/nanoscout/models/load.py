"""Load and save models as plain transformers objects.

A source is a folder, a hub name, or one of two names of our own: `smollm2-135m-instruct` and
`tiny:...`. Ours never touch the network. A hub name is looked up once before anything
large is fetched, and without a connection only the local hub cache is used. A model whose
folder lacks weights is refused: transformers would fill them with random numbers.
"""

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from nanoscout.errors import UserError
from nanoscout.models import smollm2, tiny
from nanoscout.models.known import known_config
from nanoscout.recipe import ModelSpec


def load_model(spec: ModelSpec) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in eval mode, of the spec's dtype and on its device, and its tokenizer.

    Raises UserError for a model or device that isn't there, or a folder that does not load.
    """
    device = _device(spec.device)
    dtype = getattr(torch, spec.dtype)
    if spec.source.startswith(tiny.PREFIX):
        model = tiny.model(spec.source).to(dtype)
    else:
        model = _load_pretrained(spec.source, dtype)
    return model.to(device).eval(), load_tokenizer(spec)


def load_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """The tokenizer alone. Raises UserError as `load_model` does."""
    if spec.source.startswith(tiny.PREFIX):
        return tiny.tokenizer(spec.source)
    location, options = locate(spec.source)
    with quiet(), readable(spec.source):
        return AutoTokenizer.from_pretrained(location, **options)


def model_files(source: str, patterns: Sequence[str]) -> tuple[Path, PretrainedConfig]:
    """The folder with a model's files, of a hub model those that match, and its configuration.

    Loads no weights. Raises UserError as `load_model` does, and for a tiny model, which has no
    files.
    """
    if source.startswith(tiny.PREFIX):
        raise UserError(f"model '{source}': it is made in memory and has no files")
    location, options = locate(source)
    with quiet(), readable(source):
        if not Path(location).is_dir():
            location = snapshot_download(location, allow_patterns=list(patterns), **options)
        return Path(location), AutoConfig.from_pretrained(location, local_files_only=True)


def load_config(source: str) -> PretrainedConfig:
    """A model's configuration without its weights; a few are known by heart (models/known.py).

    Raises UserError as `load_model` does.
    """
    if source.startswith(tiny.PREFIX):
        return tiny.model(source).config
    return known_config(source) or model_files(source, ["config.json"])[1]


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path
) -> None:
    """Write an ordinary transformers folder; a crash leaves the old folder or none, never half.

    An earlier model in `folder` is replaced; a folder that holds anything else is refused.
    """
    folder = Path(folder)
    if folder.is_file() or (
        folder.is_dir() and any(folder.iterdir()) and not (folder / "config.json").exists()
    ):
        raise UserError(f"{folder}: holds something other than a model; name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        new.mkdir()
        with quiet():
            model.save_pretrained(new)
            tokenizer.save_pretrained(new)
        if folder.exists():
            os.rename(folder, old)
        os.rename(new, folder)


def generation_stop_ids(model: PreTrainedModel) -> frozenset[int]:
    """Ids that the model's generation config names as ends of a turn; may be empty."""
    config = model.generation_config
    eos = None if config is None else config.eos_token_id
    return frozenset([eos] if isinstance(eos, int) else eos or [])


def _load_pretrained(source: str, dtype: torch.dtype) -> PreTrainedModel:
    location, options = locate(source)
    with quiet(), readable(source):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            location, dtype=dtype, output_loading_info=True, **options
        )
    model, info = loaded
    if info["missing_keys"]:
        raise UserError(f"model '{source}': weights are missing: {sorted(info['missing_keys'])[0]}")
    return model


def locate(source: str) -> tuple[str, dict[str, Any]]:
    """What to hand to `from_pretrained`, and with which options; cheap."""
    if source == smollm2.NAME:
        return str(smollm2.folder()), {"local_files_only": True}
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not any((folder / name).exists() for name in ("config.json", "modules.json")):
            raise UserError(f"model '{source}': the folder has no config.json, so it is no model")
        return str(folder), {"local_files_only": True}
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", source):
        raise UserError(f"model '{source}': no such folder")
    return source, {"local_files_only": not _on_hub(source)}


def _on_hub(name: str) -> bool:
    """Whether the hub has the model; False where it cannot be asked. Raises UserError for 'no'."""
    try:
        HfApi().model_info(name, timeout=10)
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(f"model '{name}': neither a folder nor a model on the hub") from None
    except (HTTPError, OSError):
        return False
    return True


@contextmanager
def readable(source: str) -> Iterator[None]:
    """Turn what transformers raises for absent or broken files into one line."""
    try:
        yield
    except (OSError, ValueError, SafetensorError, StrictDataclassError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"model '{source}': cannot be loaded: {reason}") from None


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no load reports while transformers reads or writes."""
    bars = transformers_logging.is_progress_bar_enabled()
    level = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _device(name: str) -> torch.device:
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(
            f"model.device: '{name}' is no device; use auto, cuda, mps or cpu"
        ) from None
    if (device.type == "cuda" and not cuda) or (device.type == "mps" and not mps):
        raise UserError(f"model.device: this machine has no {device.type}; use auto or cpu")
    return device
