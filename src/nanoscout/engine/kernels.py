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
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanoscout.engine.kv_cache import CacheShape
from nanoscout.files import cache_folder

SOURCE = Path(__file__).with_name("kernels.c")
FLAGS = ("-O3", "-march=native", "-ffast-math", "-fopenmp", "-fPIC", "-Wno-psabi")
MOST_DIM = 128
"""Of a head."""
MOST_QUERIES = 96
"""Rows of a task: a token's queries of one key/value head are as many rows."""


class Kernels:
    def __init__(self, path: Path):
        self._library = ctypes.CDLL(str(path))

    def attend(self, *tensors: Tensor, scaling: float) -> None:
        """kernels.c tells which tensors."""
        self._call("attend", *tensors, scaling)

    def normalise(self, rows: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """Contiguous rows over the root of their mean square, rounded, times the weight."""
        output, dim = torch.empty_like(rows), rows.shape[-1]
        self._call("normalise", rows, weight, output, rows.numel() // dim, dim, epsilon)
        return output

    def gate(self, joined: Tensor) -> Tensor:
        """silu of the first half of contiguous rows, rounded, times the second half."""
        width = joined.shape[-1] // 2
        output = joined.new_empty(*joined.shape[:-1], width)
        self._call("gate", joined, output, output.numel() // width, width)
        return output

    def rotate(self, heads: Tensor, cosines: Tensor, sines: Tensor) -> None:
        """Rotary positions, in place: heads [N, heads, dim], each row's in one piece; contiguous
        cosines and sines of N * dim elements."""
        count, many, dim = heads.shape
        self._call("rotate", heads, cosines, sines, count, many, dim, heads.stride(0))

    def _call(self, name: str, *arguments: Tensor | int | float) -> None:
        getattr(self._library, name)(*map(_plain, arguments))


def _plain(argument: Tensor | int | float) -> Any:
    match argument:
        case Tensor():
            return ctypes.c_void_p(argument.data_ptr())
        case int():
            return ctypes.c_long(argument)
        case float():
            return ctypes.c_double(argument)


def kernels_for(shape: CacheShape) -> Kernels | None:
    plain = shape.device.type == "cpu" and shape.dtype == torch.bfloat16
    fits = shape.head_dim % 2 == 0 and shape.head_dim <= MOST_DIM and shape.group <= MOST_QUERIES
    return load_kernels() if plain and fits else None


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
