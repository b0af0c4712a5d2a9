"""`attention.c` and `layers.c`, compiled once for this processor by the C compiler that is there.

A compilation takes half a second and its result is kept in the cache folder. Where there is no
compiler or the folder cannot hold it, on other devices and for other types than bfloat16, torch's
operations do the work: `load_kernels` returns None.
"""

import ctypes
import hashlib
import math
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

SOURCES = tuple(Path(__file__).with_name(name) for name in ("attention.c", "layers.c"))
HEADER = Path(__file__).with_name("bfloat16.h")
FLAGS = ("-O3", "-march=native", "-ffast-math", "-fopenmp", "-fPIC", "-Wno-psabi")
MOST_DIM = 128
"""Of a head."""
MOST_QUERIES = 96
"""Rows of a task: a token's queries of one key/value head are as many rows."""

SUMMED_ROWS = 64
"""Whose gradients of a weight are added up by one thread."""


class Kernels:
    """Tensors on the meta device, which have no contents, are only shaped."""

    def __init__(self, path: Path):
        self._library = ctypes.CDLL(str(path))

    def attend(self, *tensors: Tensor, scaling: float) -> None:
        """attention.c tells which tensors."""
        self._call("attend", *tensors, scaling)

    def normalise(self, rows: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """Contiguous rows over the root of their mean square, rounded, times the weight."""
        output, dim = torch.empty_like(rows), rows.shape[-1]
        self._call("normalise", rows, weight, output, rows.numel() // dim, dim, epsilon)
        return output

    def normalise_back(
        self, rows: Tensor, weight: Tensor, upstream: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor]:
        """Gradients of the rows and of the weight, from that of what `normalise` makes of them."""
        grad_rows, dim = torch.empty_like(rows), rows.shape[-1]
        count = rows.numel() // dim
        sums = rows.new_empty(math.ceil(count / SUMMED_ROWS), dim, dtype=torch.float32)
        sizes = (count, dim, SUMMED_ROWS, epsilon)
        self._call("normalise_back", rows, weight, upstream, grad_rows, sums, *sizes)
        return grad_rows, sums.sum(0).to(weight.dtype)

    def gate(self, gates: Tensor, ups: Tensor) -> Tensor:
        """silu(gates), rounded, times ups: rows [..., width] that lie equally far apart."""
        output = gates.new_empty(gates.shape)
        width = gates.shape[-1]
        self._call("gate", gates, ups, output, gates.numel() // width, width, gates.stride(-2))
        return output

    def gate_back(self, gates: Tensor, ups: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of gates and ups, from that of what `gate` makes of them; all contiguous."""
        grad_gates, grad_ups = torch.empty_like(gates), torch.empty_like(ups)
        width = gates.shape[-1]
        tensors = (gates, ups, upstream, grad_gates, grad_ups)
        self._call("gate_back", *tensors, gates.numel() // width, width)
        return grad_gates, grad_ups

    def rotate(self, heads: Tensor, cosines: Tensor, sines: Tensor, output: Tensor) -> None:
        """Rotary positions of heads [N, heads, dim], each row's in one piece; contiguous cosines
        and sines of N * dim elements. The output may be the heads."""
        sizes = (*heads.shape, heads.stride(0), output.stride(0))
        self._call("rotate", heads, cosines, sines, output, *sizes)

    def causal_softmax(self, scores: Tensor, block: int) -> None:
        """Of contiguous scores [..., n, seen], in place. Their last `block` columns are what as
        many rows have to say of one another: row r sees the first r % block + 1."""
        self._call("causal_softmax", scores, *_rows(scores, block))

    def causal_softmax_back(self, weights: Tensor, gradients: Tensor, block: int) -> None:
        """The gradients of such weights become those of the scores, in place."""
        self._call("causal_softmax_back", weights, gradients, *_rows(weights, block))

    def _call(self, name: str, first: Tensor, *others: Tensor | int | float) -> None:
        if not first.is_meta:
            getattr(self._library, name)(*map(_plain, (first, *others)))


def _rows(scores: Tensor, block: int) -> tuple[int, int, int]:
    seen = scores.shape[-1]
    return scores.numel() // seen, block, seen


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
        compiled = [str(Path(scratch, f"{source.stem}.o")) for source in SOURCES]
        linked = Path(scratch, "kernels.so")
        # Linked without -ffast-math, which would change how the whole process rounds.
        steps = (
            *(
                [compiler, *FLAGS, "-c", str(source), "-o", result]
                for source, result in zip(SOURCES, compiled, strict=True)
            ),
            [compiler, "-shared", *compiled, "-fopenmp", "-lm", "-o", str(linked)],
        )
        for step in steps:
            if subprocess.run(step, capture_output=True, check=False).returncode:
                return False
        os.replace(linked, library)
    return True


def _fingerprint() -> str:
    """Of the sources and of the processor that they are compiled for."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = [line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")][:1]
    texts = [source.read_text() for source in (*SOURCES, HEADER)]
    told = (texts, FLAGS, platform.machine(), flags)
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]
