"""The learner's gradient is exactly DAPO's, however the step is cut and packed."""

import math
import random
from dataclasses import replace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from nanoscout.engine.fast_layers import quicken
from nanoscout.models.lora import add_adapters
from nanoscout.recipe import LoraSpec, ObjectiveSpec, OptimiserSpec
from nanoscout.rlvr.learner import Learner
from nanoscout.rlvr.optimiser import learning_rate
from nanoscout.rlvr.packing import Sample, pack
from nanoscout.rlvr.scoring import checkpointed_layers

VOCABULARY = 61
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=8, tie_word_embeddings=True),
}


def build(name: str = "qwen3", dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name]).to(dtype).eval()


def ragged_samples(seed: int = 0, groups: int = 3, size: int = 4) -> list[Sample]:
    """Groups that share a long beginning, a question, and sometimes a call with its result."""
    rng = random.Random(seed)

    def tokens(n: int) -> list[int]:
        return [rng.randrange(VOCABULARY) for _ in range(n)]

    examples = tokens(20)
    samples = []
    for _ in range(groups):
        question = tokens(rng.randint(3, 6))
        call, result = tokens(5), tokens(9)
        for index in range(size):
            ids, sampled = examples + question, [False] * (20 + len(question))
            for turn in range(rng.randint(1, 3)):
                same = turn == 0 and index % 2 == 0
                said = call if same else tokens(rng.randint(1, 6))
                got = result if same else tokens(rng.randint(2, 8))
                ids, sampled = ids + said + got, sampled + [True] * len(said) + [False] * len(got)
            ids, sampled = [*ids, 7], [*sampled, True]
            logprobs = [rng.uniform(-5, -3) if flag else 0.0 for flag in sampled]
            samples.append(Sample(ids, sampled, logprobs, advantage=rng.uniform(-2, 2)))
    return samples


def reference_gradients(
    model: PreTrainedModel, samples: list[Sample], banned: tuple[int, ...] = ()
) -> tuple[list[torch.Tensor], float]:
    """DAPO's loss one sequence at a time, with transformers' own attention."""
    model.set_attn_implementation("eager")
    total = sum(sample.sampled_tokens for sample in samples)
    value = 0.0
    for sample in samples:
        ids = torch.tensor(sample.token_ids)
        logits = model(ids[None]).logits[0, :-1].float()
        if banned:
            logits[:, list(banned)] = float("-inf")
        logprobs = logits.log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        mask = torch.tensor(sample.sampled[1:])
        ratio = (logprobs - torch.tensor(sample.logprobs[1:])).exp()
        advantage = sample.advantage
        surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage)
        loss = -(surrogate * mask).sum() / total
        loss.backward()
        value += loss.item()
    gradients = [
        torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()
    ]
    model.zero_grad(set_to_none=True)
    return gradients, value


def packed_gradients(
    model: PreTrainedModel,
    samples: list[Sample],
    microbatch_tokens: int = 4096,
    banned: tuple[int, ...] = (),
) -> list[torch.Tensor]:
    optimiser = OptimiserSpec(microbatch_tokens=microbatch_tokens)
    learner = Learner(model, optimiser, ObjectiveSpec(), banned_ids=banned)
    learner.accumulate_gradients(learner.pack(samples), temperature=1.0)
    return learner.optimiser.gradients()


def flat(gradients: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([gradient.double().flatten() for gradient in gradients])


def relative_error(got: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    return ((flat(got) - flat(wanted)).norm() / flat(wanted).norm()).item()


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_gradient_is_that_of_one_sequence_at_a_time(name: str) -> None:
    samples = ragged_samples()
    wanted, _ = reference_gradients(build(name), samples)
    assert relative_error(packed_gradients(build(name), samples), wanted) < 1e-5


@pytest.mark.parametrize("microbatch_tokens", [1, 30, 100])
def test_gradient_does_not_depend_on_the_cut_into_micro_batches(microbatch_tokens: int) -> None:
    samples = ragged_samples(seed=1)
    whole = packed_gradients(build(), samples)
    cut = packed_gradients(build(), samples, microbatch_tokens)
    assert len(pack(samples, microbatch_tokens).micro_batches) > 1
    assert relative_error(cut, whole) < 1e-5


def test_bfloat16_gradient_points_the_same_way() -> None:
    samples = ragged_samples(seed=2)
    model = build()
    wanted, _ = reference_gradients(model, samples)
    got = packed_gradients(build(dtype=torch.bfloat16), samples)
    assert torch.cosine_similarity(flat(got), flat(wanted), dim=0) > 0.99


@pytest.mark.parametrize("lora", [None, LoraSpec(rank=4)], ids=["full", "lora"])
@pytest.mark.parametrize("name", CONFIGS)
def test_in_bfloat16_packing_changes_little_more_than_nothing(
    name: str, lora: LoraSpec | None
) -> None:
    """Ragged groups of one to several turns, with the layers of a run. Nothing is clipped: rounding
    moves tokens over the bounds."""
    samples = ragged_samples(seed=0)
    weight = 1.0 / sum(sample.sampled_tokens for sample in samples)
    weighted = [replace(sample, weight=weight) for sample in samples]
    found = []
    for batches in ([weighted], [[sample] for sample in weighted]):
        model = build(name, dtype=torch.bfloat16)
        if lora:
            add_adapters(model, lora, seed=0)
        quicken(model)
        learner = Learner(model, OptimiserSpec(), ObjectiveSpec(clip_low=0.999999, clip_high=1e6))
        for batch in batches:
            learner.accumulate_gradients(pack(batch, 4_096), temperature=1.0)
        found.append(flat(learner.optimiser.gradients()))
    assert torch.cosine_similarity(*found, dim=0) > 0.9999


def test_banned_tokens_are_left_out_of_the_softmax() -> None:
    banned = (VOCABULARY - 1, VOCABULARY - 2)
    samples = [
        replace(sample, token_ids=[min(token, VOCABULARY - 3) for token in sample.token_ids])
        for sample in ragged_samples(seed=3)
    ]
    wanted, _ = reference_gradients(build(), samples, banned)
    assert relative_error(packed_gradients(build(), samples, banned=banned), wanted) < 1e-5


def test_every_shared_token_is_computed_once() -> None:
    samples = ragged_samples(seed=4)
    batch = pack(samples, 10_000)
    (micro_batch,) = batch.micro_batches
    prefixes = {tuple(s.token_ids[: end + 1]) for s in samples for end in range(len(s.token_ids))}
    assert len(batch.prefix_ids) + len(micro_batch.token_ids) == len(prefixes)
    assert len(micro_batch.targets) == batch.total_tokens == sum(s.sampled_tokens for s in samples)


def test_tool_tokens_have_no_gradient_of_their_own_but_change_later_logits() -> None:
    base = [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    sampled = [False, False, True, True, False, False, False, True, True, True]
    other = base.copy()
    other[5] = 40

    def sample(ids: list[int], flags: list[bool]) -> Sample:
        return Sample(ids, flags, [-4.0 if flag else 0.0 for flag in flags], advantage=1.0)

    # Attended: another tool token changes the gradient of the tokens sampled after it ...
    one = packed_gradients(build(), [sample(base, sampled)])
    two = packed_gradients(build(), [sample(other, sampled)])
    assert relative_error(two, one) > 1e-3
    # ... but not trained on: were it in the loss, the gradient would be another one.
    everything = [False, False, *[True] * 8]
    trained_on_tool = packed_gradients(build(), [sample(base, everything)])
    assert relative_error(trained_on_tool, one) > 1e-3
    # With nothing sampled after the tool's tokens, they change nothing at all.
    early = [False, False, True, True, *[False] * 6]
    assert (
        relative_error(
            packed_gradients(build(), [sample(other, early)]),
            packed_gradients(build(), [sample(base, early)]),
        )
        < 1e-6
    )


def test_kl_penalty_adds_its_gradient_only_once_the_policy_has_moved() -> None:
    samples = ragged_samples(seed=5)
    model = build()
    learner = Learner(model, OptimiserSpec(lr=1e-2), ObjectiveSpec(kl=0.5))
    plain = packed_gradients(build(), samples)
    learner.accumulate_gradients(learner.pack(samples), 1.0)
    assert relative_error(learner.optimiser.gradients(), plain) < 1e-5
    stats = learner.step(samples)
    assert stats.kl == pytest.approx(0.0, abs=1e-6)
    assert learner.step(samples).kl > 1e-4


def test_a_step_raises_what_had_a_positive_advantage() -> None:
    model = build()
    ids = [1, 2, 3, 4, 5, 6]
    flags = [False, False, False, True, True, True]

    def logprob() -> float:
        with torch.no_grad():
            scores = model(torch.tensor([ids])).logits[0, 2:5].log_softmax(-1)
        return scores[torch.arange(3), torch.tensor(ids[3:])].sum().item()

    before = logprob()
    old = [0.0, 0.0, 0.0, before / 3, before / 3, before / 3]
    Learner(model, OptimiserSpec(lr=1e-3), ObjectiveSpec()).step([Sample(ids, flags, old, 1.0)])
    assert logprob() > before


def test_bfloat16_weights_are_the_rounded_float32_masters() -> None:
    model = build(dtype=torch.bfloat16)
    learner = Learner(model, OptimiserSpec(lr=1e-5), ObjectiveSpec())
    before = [p.clone() for p in model.parameters()]
    for _ in range(3):
        learner.step(ragged_samples(seed=6))
    masters = learner.optimiser.state_dict()["masters"]
    for param, master in zip(model.parameters(), masters, strict=True):
        assert torch.equal(param, master.bfloat16())
    # lr 1e-5 is often below bfloat16's resolution: the masters move where the weights cannot yet.
    moved = sum((m - b.float()).abs().gt(0).sum() for m, b in zip(masters, before, strict=True))
    assert moved > 0.9 * sum(m.numel() for m in masters)


def test_samples_without_an_advantage_count_in_the_weights_and_cost_nothing() -> None:
    samples = ragged_samples(seed=9)
    samples[3:6] = [replace(sample, advantage=0.0) for sample in samples[3:6]]
    wanted, _ = reference_gradients(build(), samples)
    assert relative_error(packed_gradients(build(), samples), wanted) < 1e-5
    learner = Learner(build(), OptimiserSpec(), ObjectiveSpec())
    assert learner.pack(samples).packed_from < sum(len(s.token_ids) for s in samples)
    assert learner.step([replace(sample, advantage=0.0) for sample in samples]) is None
    assert learner.updates == 0


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("wsd", [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 1, 1 / 2]),
        ("cosine", [1 / 3, 2 / 3, *((1 + math.cos(math.pi * i / 8)) / 2 for i in range(8))]),
    ],
)
def test_learning_rate_by_hand(schedule: str, factors: list[float]) -> None:
    spec = OptimiserSpec(lr=2.0, warmup_steps=2, schedule=schedule)
    rates = [learning_rate(spec, update, 10) for update in range(10)]
    assert rates == pytest.approx([2 * factor for factor in factors])
    assert learning_rate(spec, 12, 10) == rates[-1] > 0


@pytest.mark.parametrize("name", CONFIGS)
def test_checkpointed_layers_change_no_bit_of_the_gradient(name: str) -> None:
    samples = ragged_samples(seed=10)
    plain = packed_gradients(build(name), samples)
    model = build(name)
    with checkpointed_layers(model):
        checkpointed = packed_gradients(model, samples)
    assert all(torch.equal(a, b) for a, b in zip(checkpointed, plain, strict=True))
    assert not any(module.training for module in model.modules())
