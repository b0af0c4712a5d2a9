"""Flex attention of branches, without its compiler: on a CPU, PyTorch computes the forward pass in
plain operations. It has no backward pass there. The blocks of the mask, which only the compiled
kernel looks at, are held against the mask."""

import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from test_learner import build, ragged_samples
from torch.nn.attention.flex_attention import create_mask
from torch.nn.attention.flex_attention import flex_attention as torch_flex_attention

from nanoscout.errors import UserError
from nanoscout.recipe import ObjectiveSpec, OptimiserSpec
from nanoscout.recipe_file import load_recipe
from nanoscout.rlvr import flex_attention as module
from nanoscout.rlvr.branch_attention import branch_attention
from nanoscout.rlvr.flex_attention import FlexBranches
from nanoscout.rlvr.learner import Learner
from nanoscout.rlvr.packing import Branch, pack
from nanoscout.run import train_run

SMOKE = Path(__file__).parents[1] / "recipes" / "smoke.toml"


def trees(past: int) -> list[tuple[Branch, ...]]:
    batches = [pack(ragged_samples(seed), tokens) for seed in range(3) for tokens in (1, 60, 4096)]
    assert any(len(mb.branches) > 5 for batch in batches for mb in batch.micro_batches)
    return [micro_batch.branches for batch in batches for micro_batch in batch.micro_batches]


@pytest.mark.parametrize("past", [0, 7])
def test_it_computes_what_products_do(past: int) -> None:
    generator = torch.Generator().manual_seed(past)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    for branches in trees(past):
        count = branches[-1].end
        query, key, value = random(6, count, 8), random(2, count, 8), random(2, count, 8)
        before = (random(2, past, 8), random(2, past, 8))
        flex = FlexBranches(branches, past, torch.device("cpu"))
        torch.testing.assert_close(
            flex(query, key, value, before, 0.3),
            branch_attention(branches, query, key, value, before, 0.3),
        )


@torch.no_grad()
def test_one_compilation_is_for_all_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where the compiler makes another kernel of the same graph."""
    if not shutil.which("g++"):
        pytest.skip("no C++ compiler")
    compiled = torch.compile(torch_flex_attention, dynamic=True)
    monkeypatch.setattr(module, "_kernel", lambda device_type: compiled)
    torch._dynamo.utils.counters.clear()
    for count, past in ((300, 100), (513, 100), (700, 0), (431, 222)):
        branches = [
            Branch(0, count // 2, torch.arange(0)),
            Branch(count // 2, count, torch.arange(count // 3)),
        ]
        query, key, value = (torch.randn(heads, count, 16) for heads in (6, 2, 2))
        before = (torch.randn(2, past, 16), torch.randn(2, past, 16))
        torch.testing.assert_close(
            FlexBranches(branches, past, torch.device("cpu"))(query, key, value, before, 0.3),
            branch_attention(branches, query, key, value, before, 0.3),
        )
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("block", [1, 4, 16])
@pytest.mark.parametrize("past", [0, 7])
def test_no_block_that_is_seen_is_left_out(
    monkeypatch: pytest.MonkeyPatch, past: int, block: int
) -> None:
    """Nor is one taken for full that is not; blocks of one place are told right."""
    monkeypatch.setattr(module, "BLOCK", block)
    for branches in trees(past):
        mask = FlexBranches(branches, past, torch.device("cpu"))._mask
        rows, columns = mask.seq_lengths
        dense = create_mask(mask.mask_mod, 1, 1, rows, columns, device="cpu")[0, 0]
        full = listed(mask.full_kv_num_blocks, mask.full_kv_indices)
        some = listed(mask.kv_num_blocks, mask.kv_indices)
        assert not (full & some).any()
        for row in range(len(full)):
            for column in range(full.shape[1]):
                part = dense[row * block :, column * block :][:block, :block]
                assert part.all() or not full[row, column]
                assert some[row, column] or full[row, column] or not part.any()
        if block == 1:
            assert torch.equal(full, dense)
            assert not some.any()


def listed(counts: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    found = torch.zeros(indices.shape[2:], dtype=torch.bool)
    for row, (count, order) in enumerate(zip(counts[0, 0], indices[0, 0], strict=True)):
        found[row, order[:count].long()] = True
    return found


def test_the_learner_scores_tokens_alike_with_it() -> None:
    found = []
    for attention in ("products", "flex"):
        optimiser = OptimiserSpec(microbatch_tokens=60, attention=attention)
        learner = Learner(build(), optimiser, ObjectiveSpec())
        found.append(learner.agreement(ragged_samples(), temperature=1.0))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_cpu_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    recipe = load_recipe(SMOKE, ["optimiser.attention=flex", "model.device=cpu"])
    with pytest.raises(UserError, match=r"optimiser\.attention"):
        train_run(recipe, tmp_path / "run", resume=False, console=Console(quiet=True))
    assert not (tmp_path / "run").exists()
