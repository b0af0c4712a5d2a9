"""Advantages, the objective against hand-computed values, and dynamic sampling."""

import asyncio
import itertools
import math
from typing import Any

import pytest
import torch
from scripted import Reply, ScriptedEngine
from test_episode import ANSWER, LIMITS, SEARCH, TOKENIZER, Down, environment

from nanoscout.questions.sampler import QuestionStream
from nanoscout.recipe import ObjectiveSpec, OverlongSpec, StageSpec
from nanoscout.records import Question, StopReason, Trajectory, Turn, TurnKind
from nanoscout.rewards import Scores
from nanoscout.rlvr.advantage import group_advantages, is_informative
from nanoscout.rlvr.batch import Collector, Group, StageProgress
from nanoscout.rlvr.metrics import batch_metrics
from nanoscout.rlvr.objective import policy_objective, token_weights
from nanoscout.tools import toolbox
from nanoscout.tools.protocol import Tool

CLIP = {"clip_low": 0.2, "clip_high": 0.28}


def test_advantages_are_standardised_returns() -> None:
    got = group_advantages([1.0, 0.0, 0.0, 1.0])
    std = math.sqrt(4 * 0.25 / 3)
    assert got.tolist() == pytest.approx([0.5 / std, -0.5 / std, -0.5 / std, 0.5 / std])


def test_float_noise_is_no_signal() -> None:
    noise = [0.1 + 0.2, 0.3, 0.3]
    assert noise[0] != noise[1]
    assert group_advantages(noise).tolist() == [0.0, 0.0, 0.0]
    assert not is_informative(noise)
    assert is_informative([0.0, 1.0, 0.0])


def test_dr_grpo_leaves_the_deviation_out() -> None:
    assert group_advantages([1.0, 0.0, 0.0, 1.0], scaled=False).tolist() == [0.5, -0.5, -0.5, 0.5]
    members = group((trajectory("right"), 1.0), (trajectory("no"), 0.0))
    samples = members.samples(ObjectiveSpec(loss="dr_grpo"))
    assert [sample.advantage for sample in samples] == [0.5, -0.5]


def test_token_weights_by_hand() -> None:
    lengths = [3, 1, 4]
    assert token_weights(lengths, "dapo", 10) == [1 / 8] * 3
    assert token_weights(lengths, "grpo", 10) == [1 / 9, 1 / 3, 1 / 12]
    assert token_weights(lengths, "dr_grpo", 10) == [1 / 30] * 3
    # The first two are stretches of one trajectory.
    wholes = [4, 4, 4]
    assert token_weights(lengths, "dapo", 10, wholes) == [1 / 8] * 3
    assert token_weights(lengths, "grpo", 10, wholes) == [1 / 8] * 3
    assert token_weights(lengths, "dr_grpo", 10, wholes) == [1 / 20] * 3


def test_objective_by_hand() -> None:
    new = torch.tensor([math.log(1.5), math.log(0.5), math.log(1.5), math.log(0.5), 0.0])
    advantages = torch.tensor([1.0, -1.0, -1.0, 1.0, 2.0])
    objective = policy_objective(new, torch.zeros(5), advantages, torch.full((5,), 0.1), **CLIP)
    # min(1.5, 1.28), min(-0.5, -0.8), min(-1.5, -1.28), min(0.5, 0.8), min(2, 2)
    assert objective.loss.item() == pytest.approx(-(1.28 - 0.8 - 1.5 + 0.5 + 2.0) / 10)
    assert objective.stats["clipped"] == 2
    assert objective.stats["gap_max"] == pytest.approx(math.log(2), abs=1e-6)


def test_objective_does_not_depend_on_how_the_tokens_are_cut() -> None:
    generator = torch.Generator().manual_seed(0)
    new, old, advantages = torch.randn(3, 40, generator=generator).double()
    new.requires_grad_()

    def loss(tokens: slice) -> torch.Tensor:
        parts = (values[tokens] for values in (new, old, advantages))
        return policy_objective(*parts, torch.full_like(new[tokens], 1 / 40), **CLIP).loss

    (whole,) = torch.autograd.grad(loss(slice(None)), new)
    for cuts in ([0, 40], [0, 1, 40], [0, 13, 13, 29, 40]):
        pieces = [loss(slice(a, b)) for a, b in itertools.pairwise(cuts)]
        assert sum(pieces).item() == pytest.approx(loss(slice(None)).item())
        (gradient,) = torch.autograd.grad(sum(pieces), new)
        torch.testing.assert_close(gradient, whole)


def test_clipped_tokens_have_no_gradient() -> None:
    new = torch.tensor([math.log(1.5), math.log(0.5), math.log(1.1)], requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, 1.0])
    weights = torch.full((3,), 1 / 3)
    policy_objective(new, torch.zeros(3), advantages, weights, **CLIP).loss.backward()
    assert new.grad is not None
    assert new.grad.tolist() == pytest.approx([0.0, 0.0, -1.1 / 3])


def test_kl_is_schulmans_estimator() -> None:
    new, ref = torch.tensor([-1.0]), torch.tensor([-1.5])
    objective = policy_objective(
        new, new, torch.tensor([0.0]), torch.ones(1), **CLIP, ref_logprobs=ref, kl=0.1
    )
    assert objective.loss.item() == pytest.approx(0.1 * (math.exp(-0.5) + 0.5 - 1))


def trajectory(answer: str | None, stop: StopReason = StopReason.ANSWERED) -> Trajectory:
    question = Question("q", "?", "right")
    turn = Turn(1, 3, "", TurnKind.ANSWER)
    return Trajectory(
        question, [1, 2, 3], [False, True, True], [0.0, -1.0, -1.0], [turn], stop, answer
    )


def group(*scored: tuple[Trajectory, float]) -> Group:
    members = [t for t, _ in scored]
    return Group(members[0].question, members, [Scores({}, total) for _, total in scored])


def test_all_wrong_group_with_different_shaped_rewards_is_not_informative() -> None:
    wrong = group((trajectory("no"), 0.1), (trajectory("nope"), 0.4))
    assert len(wrong.samples(ObjectiveSpec())) == 2
    assert not wrong.informative
    assert group((trajectory("no"), 0.1), (trajectory("right"), 1.0)).informative


def test_budget_cut_trajectory_counts_in_the_advantages_but_not_in_the_loss() -> None:
    cut = trajectory(None, StopReason.TURN_LIMIT)
    members = group((trajectory("right"), 1.0), (trajectory("no"), 0.0), (cut, 0.0))
    masked = members.samples(ObjectiveSpec())
    kept = members.samples(ObjectiveSpec(mask_cut=False))
    assert len(masked) == 2
    assert len(kept) == 3
    assert [s.advantage for s in masked] == [s.advantage for s in kept[:2]]
    assert masked[0].advantage == pytest.approx((2 / 3) / math.sqrt(1 / 3))


QUESTIONS = [Question(f"q{i}", f"Question {i}?", "Tia Ron") for i in range(12)]
DOWN = '<tool>{"name": "down", "args": {}}</tool>'


def stream() -> QuestionStream:
    return QuestionStream(QUESTIONS, {"1hop": 1.0}, seed=0)


def collector(reply: Reply, *tools: Tool, **stage: Any) -> Collector:
    spec = StageSpec(**{"name": "s", "steps": 1, "groups": 2, "group_size": 4, **stage})
    engine = ScriptedEngine(TOKENIZER, reply)
    return Collector(spec, stream(), environment(*tools), engine, seed=0)


def mixed(so_far: str, seed: int) -> str:
    return ANSWER if seed % 2 else "<answer>wrong</answer>"


def right(so_far: str, seed: int) -> str:
    return ANSWER


def test_uninformative_groups_are_replaced_up_to_the_cap() -> None:
    progress = StageProgress()
    batch = asyncio.run(collector(right, max_rounds=3).collect(progress))
    assert batch.groups == []
    assert (batch.rounds, batch.dropped, len(batch.fresh)) == (3, 6, 6)
    assert progress.cursor == 6
    kept = asyncio.run(collector(right, dynamic_sampling=False).collect(StageProgress()))
    assert (kept.rounds, len(kept.groups)) == (1, 2)


def test_surplus_groups_are_carried_over_and_survive_a_checkpoint() -> None:
    def half(so_far: str, seed: int) -> str:
        # The first round's first question is easy; every other group is mixed.
        return right(so_far, seed) if first in so_far else mixed(so_far, seed)

    collect = collector(half)
    first = stream().next().text
    progress = StageProgress()
    batch = asyncio.run(collect.collect(progress))
    assert batch.rounds == 2
    assert len(batch.groups) == 2
    assert len(progress.carried) == 1
    again = StageProgress.from_json(progress.to_json())
    assert again.cursor == progress.cursor
    assert again.carried[0].trajectories == progress.carried[0].trajectories
    carried = again.carried[0].question.id
    following = asyncio.run(collect.collect(again))
    assert following.groups[0].question.id == carried


@pytest.fixture
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolbox, "RETRY_SECONDS", (0.0, 0.0))


@pytest.mark.usefixtures("_no_pauses")
def test_rollouts_without_their_tools_are_no_samples() -> None:
    def reply(so_far: str, seed: int) -> str:
        return DOWN if seed % 3 == 0 else mixed(so_far, seed)

    batch = asyncio.run(collector(reply, Down(), max_rounds=1).collect(StageProgress()))
    left = [t for group in batch.fresh for t in group.trajectories]
    assert batch.unavailable > 0
    assert len(left) + batch.unavailable == 8
    assert all(t.seed % 3 for t in left)
    for group in batch.groups:
        assert len(group.samples(ObjectiveSpec())) == len(group.trajectories)


@pytest.mark.usefixtures("_no_pauses")
@pytest.mark.parametrize("dynamic_sampling", [True, False])
def test_a_question_that_lost_all_its_rollouts_is_no_group_to_train_on(
    dynamic_sampling: bool,
) -> None:
    collect = collector(lambda *_: DOWN, Down(), max_rounds=2, dynamic_sampling=dynamic_sampling)
    batch = asyncio.run(collect.collect(StageProgress()))
    assert (batch.groups, batch.rounds, batch.unavailable) == ([], 2, 16)
    assert batch_metrics(batch)["groups"]["unavailable"] == 16


def test_overlong_counts_sampled_tokens_only() -> None:
    def reply(so_far: str, seed: int) -> str:
        return SEARCH if "<result>" not in so_far else ANSWER

    stage = {"overlong": OverlongSpec(max_tokens=1000, cache_tokens=900), "max_rounds": 1}
    batch = asyncio.run(collector(reply, turns=LIMITS.turns, **stage).collect(StageProgress()))
    member, scores = batch.fresh[0].trajectories[0], batch.fresh[0].scores[0]
    assert scores.parts["overlong"] == pytest.approx(
        -max(0, member.sampled_tokens - 100) / 900, abs=1e-9
    )
    assert len(member.token_ids) > member.sampled_tokens
