"""Checkpoints are whole or absent, and the last good one survives whatever happens."""

import subprocess
import sys
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


def test_full_disk_leaves_the_last_good_one(tmp_path: Path) -> None:
    program = f"""
import resource, signal, sys, torch
from pathlib import Path
from nanoscout.errors import UserError
from nanoscout.rlvr.checkpoint import save_checkpoint
folder = Path({str(tmp_path)!r})
save_checkpoint(folder, 1, {{"w": torch.ones(10)}}, {{}})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    save_checkpoint(folder, 2, {{"w": torch.ones(1_000_000)}}, {{}})
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "the last good one is" in done.stdout, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    tensors, _ = load_checkpoint(tmp_path / "step-000001")
    assert torch.equal(tensors["w"], torch.ones(10))


def test_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, {"w": torch.ones(4)}, {})
    (path / "tensors.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="step-000001 cannot be read"):
        load_checkpoint(path)


def test_metrics_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    truncate_metrics(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
