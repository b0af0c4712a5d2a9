"""Checkpoints are whole or absent, and the last good one survives whatever happens."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nanoscout.errors import UserError
from nanoscout.rlvr.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from nanoscout.rlvr.trainer import truncate_metrics


def test_round_trip_and_only_the_newest_is_kept(tmp_path: Path) -> None:
    for step in (2, 10):
        save_checkpoint(tmp_path, step, {"w": torch.full((3,), float(step))}, {"step": step})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000010"]
    newest = latest_checkpoint(tmp_path)
    assert newest is not None
    tensors, state = load_checkpoint(newest)
    assert torch.equal(tensors["w"], torch.full((3,), 10.0))
    assert state == {"step": 10}


def test_half_written_checkpoint_is_not_taken_for_one(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, 1, {}, {})
    (tmp_path / "step-000002.partial").mkdir()
    newest = latest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.name == "step-000001"
    save_checkpoint(tmp_path, 2, {}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]


PROGRAM = """
import resource, signal, sys
from pathlib import Path
import torch
from nanoscout.errors import UserError
from nanoscout.rlvr.checkpoint import save_checkpoint
folder, limit = Path(sys.argv[1]), int(sys.argv[2])
save_checkpoint(folder, 1, {"w": torch.ones(10)}, {})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    save_checkpoint(folder, 2, {"w": torch.ones(1_000_000)}, {"text": "x" * 6_000_000})
except UserError as error:
    print(error)
"""


def save_two(folder: Path, limit: int) -> None:
    """Save a small checkpoint, then one that the disk has no room for; the first one survives."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), str(limit)], capture_output=True, text=True
    )
    (line,) = done.stdout.splitlines()
    assert "step-000002 could not be written" in line, done.stderr
    assert f"the last good one is {folder / 'step-000001'}" in line
    assert [path.name for path in folder.iterdir()] == ["step-000001"]
    tensors, _ = load_checkpoint(folder / "step-000001")
    assert torch.equal(tensors["w"], torch.ones(10))


@pytest.mark.parametrize("limit", [200_000, 5_000_000], ids=["tensors", "state"])
def test_a_write_that_fails_leaves_the_last_good_one(tmp_path: Path, limit: int) -> None:
    save_two(tmp_path, limit)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte, which only root can have."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no right to mount a tmpfs here")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_leaves_the_last_good_one(tiny_disk: Path) -> None:
    save_two(tiny_disk / "checkpoints", limit=0)


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", b"hello\n", b"\0" * 100])
def test_a_damaged_checkpoint_is_named_in_one_line(tmp_path: Path, damage: bytes) -> None:
    path = save_checkpoint(tmp_path, 1, {"w": torch.ones(4)}, {})
    (path / "tensors.pt").write_bytes(damage)
    with pytest.raises(UserError, match="step-000001 cannot be read") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_or_missing_file_is_named(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, {"w": torch.ones(4)}, {"step": 1})
    tensors = (path / "tensors.pt").read_bytes()
    (path / "tensors.pt").write_bytes(tensors[: len(tensors) // 2])
    with pytest.raises(UserError, match="step-000001 cannot be read"):
        load_checkpoint(path)
    (path / "tensors.pt").write_bytes(tensors)
    (path / "state.json").write_text('{"step"')
    with pytest.raises(UserError, match="step-000001 cannot be read"):
        load_checkpoint(path)
    (path / "state.json").unlink()
    with pytest.raises(UserError, match="step-000001 cannot be read"):
        load_checkpoint(path)


def test_what_is_no_checkpoint_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    save_checkpoint(tmp_path, 1, {}, {})
    save_checkpoint(tmp_path, 2, {}, {})
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "step-000002"}


def test_metrics_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    truncate_metrics(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_as_many_checkpoints_stay_as_asked_for(tmp_path: Path) -> None:
    for step in range(1, 6):
        save_checkpoint(tmp_path, step, {}, {}, keep=3)
    assert sorted(path.name[-1] for path in tmp_path.iterdir()) == ["3", "4", "5"]
    before = latest_checkpoint(tmp_path, before=5)
    assert before is not None
    assert before.name == "step-000004"
    assert latest_checkpoint(tmp_path, before=3) is None
