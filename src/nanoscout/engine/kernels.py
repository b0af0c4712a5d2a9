"""`kernels.c`, compiled once for this processor by the C compiler that is there.

A compilation takes half a second and its result is kept in the cache folder. Where there is no
compiler or the folder cannot hold it, on other devices and for other types than bfloat16, attention
is computed by torch's products alone: `load_kernels` returns None.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from nanoscout.files import cache_folder

SOURCE = Path(__file__).with_name("kernels.c")
FLAGS = ("-O3", "-march=native", "-ffast-math", "-fopenmp", "-fPIC")


class Kernels:
    def __init__(self, path: Path):
        self._library = ctypes.CDLL(str(path))

    def causal_softmax(self, scores: Tensor, seen: int) -> Tensor:
        """softmax in place of scores [blocks, rows, width]: row i sees its first seen + i."""
        blocks, rows, width = scores.shape
        self._call("causal_softmax", scores, blocks, rows, width, seen)
        return scores

    def decode(
        self,
        query: Tensor,
        output: Tensor,
        prefix: Tensor,
        alone: Tensor,
        keys: Tensor,
        values: Tensor,
        new_key: Tensor,
        new_value: Tensor,
        row: Tensor,
        length: Tensor,
        first: int,
    ) -> None:
        """One new token for each conversation of a block; kernels.c tells the shapes."""
        kv_heads, count, group, dim = query.shape
        sizes = (len(row), first, count, kv_heads, group, dim, prefix.shape[-1], keys.shape[2])
        strides = (*new_key.stride()[:2], *new_value.stride()[:2])
        tensors = (query, output, prefix, alone, keys, values, new_key, new_value, row, length)
        self._call("decode", *tensors, *sizes, *strides)

    def _call(self, name: str, *arguments: Tensor | int) -> None:
        plain: Sequence[ctypes.c_void_p | ctypes.c_long] = [
            ctypes.c_void_p(argument.data_ptr())
            if isinstance(argument, Tensor)
            else ctypes.c_long(argument)
            for argument in arguments
        ]
        getattr(self._library, name)(*plain)


def kernels_for(dtype: torch.dtype, device: torch.device) -> Kernels | None:
    return load_kernels() if device.type == "cpu" and dtype == torch.bfloat16 else None


@cache
def load_kernels() -> Kernels | None:
    """The compiled kernels; None where they cannot be had."""
    compiler = shutil.which("cc")
    if compiler is None or platform.system() != "Linux":
        return None
    library = cache_folder() / f"kernels-{_fingerprint()}.so"
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        if not library.exists() and not _compile(compiler, library):
            return None
        return Kernels(library)
    except OSError:  # The folder cannot be written, or nothing may be run from it.
        return None


def _compile(compiler: str, library: Path) -> bool:
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".kernels.") as scratch:
        compiled, linked = Path(scratch, "kernels.o"), Path(scratch, "kernels.so")
        # Linked without -ffast-math, which would change how the whole process rounds.
        steps = (
            [compiler, *FLAGS, "-c", str(SOURCE), "-o", str(compiled)],
            [compiler, "-shared", str(compiled), "-fopenmp", "-lm", "-o", str(linked)],
        )
        for step in steps:
            if subprocess.run(step, capture_output=True, check=False).returncode:
                return False
        os.replace(linked, library)
    return True


def _fingerprint() -> str:
    """Of the source and of the processor that it is compiled for."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = [line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")][:1]
    told = (SOURCE.read_text(), FLAGS, platform.machine(), flags)
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]
