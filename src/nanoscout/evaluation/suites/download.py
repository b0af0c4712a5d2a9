"""Published files: fetched once from where they lie, checked byte for byte, kept in the cache."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import httpx2
from filelock import FileLock

from nanoscout.errors import UserError
from nanoscout.files import cache_folder
from nanoscout.questions.text_file import open_bytes

TIMEOUT = httpx2.Timeout(60.0, connect=10.0)


@dataclass(frozen=True)
class Published:
    """A file that anyone can fetch. `name` is what the cache calls it."""

    name: str
    url: str
    sha256: str


def fetch(file: Published) -> Path:
    """The file in the cache, fetched if it is not there; one process fetches while others wait.

    It gets its name only when its checksum is right, so the cache holds whole files alone. Raises
    UserError where it cannot be had, or is another file than it was.
    """
    folder = cache_folder() / "suites"
    target = folder / file.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{file.name}.lock"):
            if not target.exists() or sha256_of(target) != file.sha256:
                partial = folder / f"{file.name}.partial"
                try:
                    found = _download(file.url, partial)
                    if found == file.sha256:
                        partial.replace(target)
                finally:
                    partial.unlink(missing_ok=True)
                if found != file.sha256:
                    raise UserError(
                        f"{file.url}: not the file that it was (sha256 {found}, expected "
                        f"{file.sha256}); nothing was kept. Name your copy with --path"
                    )
    except httpx2.HTTPError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{file.url}: cannot be fetched ({reason}); name your copy with --path"
        ) from None
    except OSError as error:
        raise UserError(f"{folder}: the cache could not be written: {error.strerror}") from None
    return target


def sha256_of(path: Path) -> str:
    """Of a file's content, unzipped, so that a file and its .gz are one."""
    with open_bytes(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, target: Path) -> str:
    """The sha256 of what was written to `target`."""
    with (
        httpx2.stream("GET", url, follow_redirects=True, timeout=TIMEOUT) as response,
        target.open("wb") as file,
    ):
        response.raise_for_status()
        for piece in response.iter_bytes():
            file.write(piece)
    return sha256_of(target)
