"""The vectors of an index's passages: made in a pass that may be cut off, kept beside the index.

    INDEX/vectors/meta.json         which model made them, from which state of the index, the files
                  NAME.places.npy   each passage's key and address, sorted by key
                  NAME.vectors.npy  their vectors
                  NAME.graph        where there are many passages, what is searched instead
                  unfinished        what a pass has encoded so far

A passage's key is a hash of its id and text, so a pass encodes only what is new or has changed, and
goes on where a killed one stopped. NAME is another one each time, and meta.json, written last, says
which files count: readers have the old vectors or the new ones. A model is recognised by the vector
that it gives to a fixed text, whatever its name or folder.

The graph is usearch's (HNSW in half precision): it comes as small wheels without a runtime of
threads of its own, is searched where it lies on disk, and takes additions and deletions.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from nanoscout.errors import UserError
from nanoscout.files import write_text
from nanoscout.records import Passage
from nanoscout.search.encoder import Encoder, Floats, from_extra, passage_text
from nanoscout.search.index import Address, SearchIndex

GRAPH_FROM = 50_000
"""Passages from which on a graph is searched; with fewer, all vectors are compared with."""

SAVED_AT_ONCE = 256
"""Passages between two savings of a pass: what a kill costs at most."""

COPIED_AT_ONCE = 10_000
"""Vectors that are in memory at a time when files are written."""

SAME_MODEL = 0.9999
"""The cosine from which on two vectors of the fixed text are one model's: another device or
precision changes less, training changes more."""

Ints = NDArray[Any]

PLACE = np.dtype([("key", "<u8"), ("segment", "<u4"), ("doc", "<u4")])


class Meta(BaseModel):
    """What the finished vectors are."""

    encoder: str
    probe: list[float]
    index: str
    """The version of the index that they belong to."""
    files: dict[str, int]
    """Their names and sizes in bytes."""


@dataclass(frozen=True)
class PassageVectors:
    """Finished vectors, as they lie on disk."""

    places: NDArray[Any]
    """[passages] of PLACE, sorted by key."""
    vectors: Floats
    """[passages, dimension], mapped."""
    graph: Path | None


def encoder_of(index: SearchIndex) -> str:
    """The name of the model that made an index's finished vectors; empty where there are none."""
    meta = _meta(_folder(index))
    return meta.encoder if meta else ""


def encode_passages(
    index: SearchIndex,
    encoder: Encoder,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    graph_from: int = GRAPH_FROM,
) -> int:
    """Make an index's vectors, or bring them up to date; returns how many had to be encoded.

    `on_progress` gets how many passages of how many have a vector. Vectors of another model are
    replaced. Raises UserError while the index is being changed, or where it cannot be written to.
    """
    folder = _folder(index)
    try:
        with index.unchanging():
            folder.mkdir(exist_ok=True)
            return _encode(index, encoder, folder, on_progress, graph_from)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to: {error}") from None


def open_vectors(index: SearchIndex, encoder: Encoder) -> PassageVectors:
    """The vectors of all passages of an index.

    Raises UserError for vectors that are not there, not whole, of another model, or made before the
    index was changed.
    """
    folder = _folder(index)
    meta = _meta(folder)
    if meta is None:
        raise no_vectors(index, encoder.source)
    command = _command(index, encoder.source)
    if not _is_of(np.array(meta.probe), encoder):
        raise UserError(
            f"{index.folder}: its vectors are of {meta.encoder}, which is another model; "
            f"use that one, or make others with {command}"
        )
    if meta.index != index.version:
        raise UserError(
            f"{index.folder}: changed since its vectors were made; bring them up to date with "
            f"{command}"
        )
    if not _whole(folder, meta):
        raise UserError(f"{folder}: cut off or damaged; make the vectors anew with {command}")
    return _load(folder, meta)


def no_vectors(index: SearchIndex, encoder: str) -> UserError:
    return UserError(f"{index.folder}: no vectors here; make them with {_command(index, encoder)}")


def _command(index: SearchIndex, encoder: str) -> str:
    return f"nanoscout index encode {index.folder} --encoder {encoder}"


def _folder(index: SearchIndex) -> Path:
    if index.folder is None:
        raise UserError("an index in memory keeps no vectors; build it in a folder")
    return index.folder / "vectors"


def _encode(
    index: SearchIndex,
    encoder: Encoder,
    folder: Path,
    on_progress: Callable[[int, int], None],
    graph_from: int,
) -> int:
    addresses = index.addresses()
    keys = np.array([_key(index.at(address)) for address in addresses], np.uint64)
    old = _reusable(folder, encoder)
    unfinished = _Unfinished(folder / "unfinished", encoder)
    known = np.concatenate([old.places["key"], unfinished.records["key"]])
    missing = np.flatnonzero(~np.isin(keys, known))
    done = len(keys) - len(missing)
    on_progress(done, len(keys))
    for part in _parts(missing, SAVED_AT_ONCE):
        passages = [index.at(addresses[row]) for row in part]
        unfinished.append(keys[part], encoder.passages(passages))
        done += len(part)
        on_progress(done, len(keys))
    name = secrets.token_hex(8)
    files = [folder / f"{name}.places.npy", folder / f"{name}.vectors.npy"]
    places = _sorted_places(keys, addresses)
    np.save(files[0], places)
    made = unfinished.records
    sources = [(old.places["key"], old.vectors), (made["key"], made["vector"])]
    vectors = _write_vectors(files[1], places["key"], sources, encoder.dimension)
    if len(keys) >= graph_from:
        files.append(folder / f"{name}.graph")
        _write_graph(files[2], places["key"], vectors, old)
    meta = Meta(
        encoder=encoder.source,
        probe=encoder.probe.tolist(),
        index=index.version,
        files={path.name: path.stat().st_size for path in files},
    )
    write_text(folder / "meta.json", meta.model_dump_json())
    for path in folder.iterdir():
        if path.name not in (*meta.files, "meta.json"):
            path.unlink()
    return len(missing)


class _Unfinished:
    """A file of keys with vectors that is only appended to; the first record is the probe's."""

    def __init__(self, path: Path, encoder: Encoder):
        self._path = path
        self._type = np.dtype([("key", "<u8"), ("vector", "<f4", (encoder.dimension,))])
        path.touch()
        whole = path.stat().st_size // self._type.itemsize
        first = np.fromfile(path, self._type, count=min(1, whole))
        with path.open("r+b") as file:
            if whole and _is_of(first["vector"][0], encoder):
                file.truncate(whole * self._type.itemsize)
            else:
                file.truncate(0)
        if path.stat().st_size == 0:
            self.append(np.zeros(1, np.uint64), encoder.probe[None])

    @property
    def records(self) -> NDArray[Any]:
        return np.memmap(self._path, self._type, "r")[1:]

    def append(self, keys: Ints, vectors: Floats) -> None:
        records = np.empty(len(keys), self._type)
        records["key"], records["vector"] = keys, vectors
        with self._path.open("ab") as file:
            file.write(records.tobytes())


def _sorted_places(keys: Ints, addresses: Sequence[Address]) -> NDArray[Any]:
    places = np.empty(len(keys), PLACE)
    places["key"] = keys
    places["segment"], places["doc"] = np.array(addresses, np.uint32).reshape(-1, 2).T
    return np.sort(places, order="key")


def _write_vectors(
    path: Path, keys: Ints, sources: Sequence[tuple[Ints, Floats]], dimension: int
) -> Floats:
    """The vectors of `keys`, which the sources' keys hold, in a file."""
    shape = (len(keys), dimension)
    vectors = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    for known, its_vectors in sources:
        by_key = np.argsort(known)
        known = known[by_key]
        for part in _parts(np.flatnonzero(np.isin(keys, known)), COPIED_AT_ONCE):
            vectors[part] = its_vectors[by_key[np.searchsorted(known, keys[part])]]
    vectors.flush()
    return vectors


def _write_graph(path: Path, keys: Ints, vectors: Floats, old: PassageVectors) -> None:
    usearch = from_extra("usearch.index")
    new = np.arange(len(keys))
    if old.graph:
        graph = usearch.Index.restore(old.graph)
        graph.remove(np.setdiff1d(old.places["key"], keys))
        new = np.flatnonzero(~np.isin(keys, old.places["key"]))
    else:
        graph = usearch.Index(ndim=vectors.shape[1], metric="ip", dtype="f16")
    for part in _parts(new, COPIED_AT_ONCE):
        # One thread: with several, the same vectors would not give the same graph.
        graph.add(keys[part], vectors[part], threads=1)
    graph.save(path)


def _reusable(folder: Path, encoder: Encoder) -> PassageVectors:
    """What is finished already, of this model and whole; else nothing."""
    meta = _meta(folder)
    if meta and _is_of(np.array(meta.probe), encoder) and _whole(folder, meta):
        return _load(folder, meta)
    return PassageVectors(np.empty(0, PLACE), np.empty((0, encoder.dimension), np.float32), None)


def _meta(folder: Path) -> Meta | None:
    path = folder / "meta.json"
    if not path.exists():
        return None
    try:
        return Meta.model_validate_json(path.read_bytes())
    except ValidationError:
        raise UserError(
            f"{path}: damaged; remove the folder {folder} and make the vectors anew with "
            "nanoscout index encode"
        ) from None


def _whole(folder: Path, meta: Meta) -> bool:
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == size
        for name, size in meta.files.items()
    )


def _load(folder: Path, meta: Meta) -> PassageVectors:
    files = {name.partition(".")[2]: folder / name for name in meta.files}
    return PassageVectors(
        np.load(files["places.npy"]),
        np.load(files["vectors.npy"], mmap_mode="c"),
        files.get("graph"),
    )


def _is_of(probe: NDArray[Any], encoder: Encoder) -> bool:
    return probe.shape == encoder.probe.shape and bool(probe @ encoder.probe > SAME_MODEL)


def _key(passage: Passage) -> int:
    content = f"{len(passage.id)} {passage.id}{passage_text(passage)}"
    return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "big")


def _parts(rows: Ints, size: int) -> Iterator[Ints]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
