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

import torch
from torch import Tensor

from nanoscout.engine.kv_cache import CacheShape
from nanoscout.files import cache_folder

SOURCE = Path(__file__).with_name("kernels.c")
FLAGS = ("-O3", "-march=native", "-ffast-math", "-fopenmp", "-fPIC", "-Wno-psabi")
MOST_DIM = 128
"""Of a head."""
MOST_QUERIES = 128
"""Rows of a task: a token's queries of one key/value head are as many rows."""


class Kernels:
    def __init__(self, path: Path):
        self._library = ctypes.CDLL(str(path))

    def attend(self, *tensors: Tensor, scaling: float) -> None:
        """kernels.c tells which tensors."""
        places = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
        self._library.attend(*places, ctypes.c_double(scaling))

    def normalise(self, rows: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """Contiguous rows over the root of their mean square, rounded, times the weight."""
        output = torch.empty_like(rows)
        places = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (rows, weight, output)]
        dim = rows.shape[-1]
        sizes = ctypes.c_long(rows.numel() // dim), ctypes.c_long(dim)
        self._library.normalise(*places, *sizes, ctypes.c_double(epsilon))
        return output


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
