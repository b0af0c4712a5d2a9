"""The torch engine says exactly what transformers' own generate says, however it is batched."""

import asyncio
import copy
import random
from collections import Counter
from collections.abc import Awaitable, Sequence

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from nanoscout.engine import torch_engine
from nanoscout.engine.kv_cache import CacheShape, KvCache, Slot
from nanoscout.engine.protocol import Finish, Generation, Sampling
from nanoscout.engine.sampling import choose_tokens, uniform
from nanoscout.engine.torch_engine import TorchEngine

VOCABULARY = 97
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE | {"hidden_size": 48}, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SHAPE | {"hidden_size": 48}),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16, tie_word_embeddings=True),
}
GREEDY = Sampling(temperature=0, max_tokens=12)
Reply = tuple[list[int], list[float]]


def build(name: str = "qwen3") -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:  # Norms and biases start as ones and zeros, which hides faults.
            torch.nn.init.normal_(parameter, mean=parameter[0].item(), std=0.2)
    return model


def engine_of(model: PreTrainedModel, **options: int) -> TorchEngine:
    return TorchEngine(model, **{"concurrency": 64, "context": 1024} | options)


def tokens(count: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(VOCABULARY) for _ in range(count)]


@torch.no_grad()
def reference(model: PreTrainedModel, prompt: list[int], count: int) -> Reply:
    """Greedy tokens and their log-probabilities by transformers' own generate."""
    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=count,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    chosen = output.sequences[0, len(prompt) :].tolist()
    scores = [
        logits[0].float().log_softmax(-1)[token].item()
        for logits, token in zip(output.logits, chosen, strict=True)
    ]
    return chosen, scores


@torch.no_grad()
def scored(model: PreTrainedModel, ids: list[int], count: int) -> list[float]:
    """Log-probabilities of the last `count` ids in one full pass of transformers' own."""
    scores = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return [scores[place - 1, ids[place]].item() for place in range(len(ids) - count, len(ids))]


def same(generation: Generation, expected: Reply) -> None:
    assert generation.token_ids == expected[0]
    assert generation.logprobs == pytest.approx(expected[1], abs=2e-4)


async def turn(
    engine: TorchEngine, prompt: Sequence[int], sampling: Sampling = GREEDY, seed: int = 0
) -> Generation:
    conversation = engine.conversation(seed)
    try:
        return await conversation.generate(prompt, sampling)
    finally:
        conversation.close()


def run_all(*work: Awaitable[Generation]) -> list[Generation]:
    async def gather() -> list[Generation]:
        return list(await asyncio.gather(*work))

    return asyncio.run(gather())


@pytest.mark.parametrize("name", CONFIGS)
def test_ragged_batch_equals_transformers_generate(name: str) -> None:
    model = build(name)
    original = copy.deepcopy(model)
    prompts = [tokens(length, length) for length in (1, 2, 7, 30, 64, 5, 3, 90, 11, 150, 4)]
    engine = engine_of(model)
    for prompt, generation in zip(
        prompts, run_all(*(turn(engine, prompt) for prompt in prompts)), strict=True
    ):
        same(generation, reference(original, prompt, 12))
        assert generation.finish is Finish.LENGTH
    assert engine.stats.sampled_tokens == 12 * len(prompts)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("prefix_length", [0, 40])
def test_late_joiners_and_many_turns(name: str, prefix_length: int) -> None:
    """Conversations begin while others decode, take turns, wait for tools of differing slowness,
    and some do not begin with the announced prefix."""
    model = build(name)
    original = copy.deepcopy(model)
    engine = engine_of(model, concurrency=5)
    prefix = tokens(prefix_length, 1000)
    engine.share_prefix(prefix)

    async def converse(number: int) -> None:
        rng = random.Random(number)
        for _ in range(rng.randrange(60)):
            await asyncio.sleep(0)
        conversation = engine.conversation(number)
        history: list[int] = []
        for number_of_turn in range(4):
            new = tokens(rng.randint(1, 50), rng.randrange(10**6))
            if number_of_turn == 0 and number % 4:
                new = prefix + new
            count = rng.randint(1, 9)
            generation = await conversation.generate(new, Sampling(0, max_tokens=count))
            same(generation, reference(original, history + new, count))
            history += new + generation.token_ids
            for _ in range(rng.randrange(40)):
                await asyncio.sleep(0)
        conversation.close()

    async def main() -> None:
        await asyncio.gather(*(converse(number) for number in range(13)))

    asyncio.run(main())
    assert engine.stats.reused_tokens >= prefix_length * 8


def test_long_prompts_go_in_portions_beside_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_engine, "PREFILL_TOKENS", 16)
    monkeypatch.setattr("nanoscout.engine.cached_attention.PORTION", 2000)
    monkeypatch.setattr("nanoscout.engine.cached_attention.LEAST_TOKENS", 3)
    model = build()
    original = copy.deepcopy(model)
    engine = engine_of(model)
    prefix = tokens(37, 1)
    engine.share_prefix(prefix)
    prompts = [tokens(3, 2), prefix + tokens(200, 3), tokens(150, 4), prefix + tokens(1, 5)]
    generations = run_all(*(turn(engine, prompt) for prompt in prompts))
    for prompt, generation in zip(prompts, generations, strict=True):
        same(generation, reference(original, prompt, 12))


@pytest.mark.parametrize("prefix_length", [0, 30])
def test_identical_histories_are_computed_once(prefix_length: int) -> None:
    """Rollouts of a question share its prompt, and after equal calls their equal results."""
    model = build()
    original = copy.deepcopy(model)
    engine = engine_of(model)
    engine.share_prefix(tokens(prefix_length, 1))
    prompt, result = tokens(prefix_length, 1) + tokens(100, 2), tokens(80, 3)

    async def converse(number: int) -> None:
        conversation = engine.conversation(number)
        first = await conversation.generate(prompt, GREEDY)
        same(first, reference(original, prompt, 12))
        history = prompt + first.token_ids + result
        second = await conversation.generate([*result, number], GREEDY)
        same(second, reference(original, [*history, number], 12))
        conversation.close()

    async def main() -> None:
        await asyncio.gather(*(converse(number) for number in range(8)))

    asyncio.run(main())
    computed_once = len(prompt) + len(result)
    assert engine.stats.prefilled_tokens <= computed_once + 8 * 4
    assert engine.stats.reused_tokens >= 7 * (computed_once - 4)


def test_a_prefix_gives_way_only_when_nobody_attends_to_it() -> None:
    model = build()
    original = copy.deepcopy(model)
    engine = engine_of(model)
    old, new = tokens(50, 1), tokens(30, 1) + tokens(30, 2)

    async def main() -> None:
        engine.share_prefix(old)
        staying = engine.conversation(0)
        first = await staying.generate([*old, 1], GREEDY)
        engine.share_prefix(new)
        same(await turn(engine, [*new, 2]), reference(original, [*new, 2], 12))
        again = await staying.generate([3], GREEDY)
        same(again, reference(original, [*old, 1, *first.token_ids, 3], 12))
        staying.close()
        computed = engine.stats.prefilled_tokens
        same(await turn(engine, [*new, 4]), reference(original, [*new, 4], 12))
        assert engine.stats.prefilled_tokens == computed + 30 + 1  # The first 30 are the old's.
        engine.share_prefix(new[:45])
        same(await turn(engine, [*new, 4]), reference(original, [*new, 4], 12))
        same(await turn(engine, new[:45]), reference(original, new[:45], 12))

    asyncio.run(main())


def test_a_growing_cache_keeps_what_it_holds() -> None:
    model = build()
    original = copy.deepcopy(model)
    engine = engine_of(model)
    sampling = Sampling(0, max_tokens=300)
    short, long = run_all(turn(engine, [1, 2], sampling), turn(engine, tokens(500, 1), sampling))
    assert short.logprobs == pytest.approx(
        scored(original, [1, 2, *short.token_ids], 300), abs=2e-4
    )
    assert long.logprobs == pytest.approx(
        scored(original, tokens(500, 1) + long.token_ids, 300), abs=2e-4
    )


def test_one_conversation_takes_the_memory_of_one() -> None:
    """A prompt of 128K tokens would otherwise be stored with room for fifteen others."""
    model = build()
    shape = CacheShape.of(model)
    by_token = 2 * shape.layers * shape.kv_heads * shape.head_dim
    engine = engine_of(model, concurrency=1)
    conversation = engine.conversation(seed=0)
    run_all(conversation.generate(tokens(900, seed=3), GREEDY))
    stored = sum(
        tensor.numel() for block in engine._cache._blocks for tensor in block.keys + block.values
    )
    assert 900 * by_token <= stored < 1_000 * by_token


def test_slots_keep_their_contents_while_others_leave_and_blocks_change_size() -> None:
    device = torch.device("cpu")
    shape = CacheShape(2, kv_heads=3, group=2, head_dim=4, dtype=torch.float32, device=device)
    cache = KvCache(shape, rows=4)
    rng = random.Random(0)
    expected: dict[Slot, torch.Tensor] = {}
    for _ in range(300):
        if expected and rng.random() < 0.45:
            slot = rng.choice(list(expected))
            del expected[slot]
            cache.release(slot)
        else:
            slot, length = cache.claim(shares_prefix=False), rng.choice([1, 5, 70, 700])
            cache.make_room({slot: length})
            block, row = cache.place(slot)
            expected[slot] = torch.rand(2, 2, 3, length, 4)
            for layer in range(2):
                block.write(layer, row, 0, *expected[slot][layer])
            slot.length = length
        for number, slot in enumerate(cache.slots):
            assert slot.index == number
            block, row = cache.place(slot)
            for layer in range(2):
                keys, values = expected[slot][layer]
                assert block.keys[layer][row, :, : slot.length].equal(keys)
                assert block.values[layer][row, :, : slot.length].equal(values)
                assert block.values[layer].isfinite().all()
    for slot in list(expected):
        cache.release(slot)
        cache.make_room({})
        longest = max((slot.length for slot in cache.slots), default=0)
        assert all(cache.place(slot)[0].capacity <= longest * 4 / 3 + 64 for slot in cache.slots)


def test_sampled_tokens_depend_on_the_seed_alone() -> None:
    model = build("llama")
    sampling = Sampling(temperature=1.0, max_tokens=30)

    def sample(company: int) -> Generation:
        engine = engine_of(model)
        others = (turn(engine, tokens(3 * n, n), sampling, seed=n) for n in range(1, company + 1))
        return run_all(*others, turn(engine, tokens(20, 99), sampling, seed=7))[-1]

    alone, in_company = sample(0), sample(20)
    assert alone.token_ids == in_company.token_ids
    assert alone.logprobs == pytest.approx(in_company.logprobs, abs=2e-4)
    ids = tokens(20, 99) + alone.token_ids
    assert alone.logprobs == pytest.approx(scored(copy.deepcopy(model), ids, 30), abs=2e-4)
    other_seed = run_all(turn(engine_of(model), tokens(20, 99), sampling, seed=8))[0]
    assert other_seed.token_ids != alone.token_ids


def test_the_same_requests_give_the_same_bits() -> None:
    model = build()

    def everything() -> list[Generation]:
        engine = engine_of(model, concurrency=6)

        async def converse(number: int) -> list[Generation]:
            conversation = engine.conversation(number)
            turns = []
            for _ in range(3):
                turns.append(
                    await conversation.generate(tokens(20 + number, 5), Sampling(max_tokens=9))
                )
            conversation.close()
            return turns

        async def main() -> list[Generation]:
            done = await asyncio.gather(*(converse(number // 2) for number in range(16)))
            return [generation for turns in done for generation in turns]

        return asyncio.run(main())

    assert everything() == everything()


def test_different_samplings_in_one_batch() -> None:
    model = build()
    original = copy.deepcopy(model)
    prompt = tokens(10, 1)
    samplings = [
        Sampling(temperature=0.7, top_p=0.8, top_k=20, max_tokens=5),
        Sampling(temperature=1.0, max_tokens=5),
        Sampling(temperature=0, max_tokens=3),
        Sampling(temperature=0.5, max_tokens=8, banned_ids=frozenset({1, 2})),
    ]
    together = engine_of(model)
    mixed = run_all(*(turn(together, prompt, sampling, seed=4) for sampling in samplings))
    for sampling, generation in zip(samplings, mixed, strict=True):
        alone = run_all(turn(engine_of(model), prompt, sampling, seed=4))[0]
        same(alone, (generation.token_ids, generation.logprobs))
    same(mixed[2], reference(original, prompt, 3))


def test_stop_tokens_end_a_turn_and_belong_to_it() -> None:
    model = build()
    free = run_all(turn(engine_of(model), tokens(10, 1)))[0]
    stop = free.token_ids[5]
    cut = free.token_ids.index(stop) + 1
    sampling = Sampling(0, max_tokens=12, stop_ids=frozenset({stop, VOCABULARY + 5}))
    stopped = run_all(turn(engine_of(model), tokens(10, 1), sampling))[0]
    assert stopped.token_ids == free.token_ids[:cut]
    assert stopped.finish is Finish.STOP


def draws(logits: torch.Tensor, sampling: Sampling, count: int) -> Counter[int]:
    """What `count` draws from one distribution give, in conversations of various seeds."""
    uniforms = [uniform(seed=place // 50, count=place % 50) for place in range(count)]
    chosen, _ = choose_tokens(logits.expand(count, -1), [sampling] * count, uniforms)
    return Counter(chosen)


def chi_square(counts: Counter[int], probabilities: torch.Tensor) -> float:
    total = sum(counts.values())
    return sum(
        (counts[token] - total * p) ** 2 / (total * p)
        for token, p in enumerate(probabilities.tolist())
        if p > 0
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    torch.manual_seed(1)
    logits = torch.randn(1, 20)
    counts = draws(logits, Sampling(temperature=temperature), 20_000)
    expected = (logits[0] / temperature).softmax(-1)
    assert chi_square(counts, expected) < 43.8  # 19 degrees of freedom, p = 0.001


def test_top_k_and_top_p_keep_exactly_their_sets() -> None:
    probabilities = torch.tensor([0.05, 0.4, 0.02, 0.3, 0.15, 0.08])
    logits = probabilities.log()[None]
    # The smallest sets of the most probable tokens that hold top_p, here .4 + .3 + .15 = .85.
    for sampling, kept in [
        (Sampling(top_k=2), [1, 3]),
        (Sampling(top_p=0.84), [1, 3, 4]),
        (Sampling(top_p=0.86), [1, 3, 4, 5]),
        (Sampling(top_p=0.001), [1]),
        (Sampling(top_k=1000), [0, 1, 2, 3, 4, 5]),
        (Sampling(top_k=3, top_p=0.8), [1, 3]),  # .7 of .85 is .82
        (Sampling(top_k=4, banned_ids=frozenset({1})), [0, 3, 4, 5]),
    ]:
        counts = draws(logits, sampling, 6_000)
        assert sorted(counts) == kept
        left = torch.zeros(6)
        left[kept] = probabilities[kept]
        assert chi_square(counts, left / left.sum()) < 20.5  # 5 degrees of freedom, p = 0.001
    _, logprobs = choose_tokens(logits, [Sampling(top_k=1)], [0.3])
    assert logprobs == pytest.approx([torch.tensor(0.4).log().item()])


def test_banned_tokens_never_come_out_whatever_the_number_drawn() -> None:
    logits = torch.zeros(4, 50_000)
    banned = frozenset({0, 17, 49_998, 49_999})
    uniforms = [0.0, 1.0 - 2.0**-53, 1.0 - 2.0**-30, 2.0**-53]
    for sampling in (Sampling(), Sampling(top_p=0.9999999), Sampling(top_k=49_999)):
        kept = Sampling(top_p=sampling.top_p, top_k=sampling.top_k, banned_ids=banned)
        chosen, logprobs = choose_tokens(logits, [kept] * 4, uniforms)
        assert not banned & set(chosen)
        assert logprobs == pytest.approx([-torch.tensor(49_996.0).log().item()] * 4)
    only = Sampling(banned_ids=frozenset(range(50_000)) - {4})
    assert choose_tokens(logits[:1], [only], [0.999])[0] == [4]
    greedy = Sampling(temperature=0, banned_ids=frozenset(range(10)))
    assert choose_tokens(-torch.arange(20.0)[None], [greedy], [0.5])[0] == [10]


def test_uniform_numbers_are_spread_and_independent() -> None:
    numbers = torch.tensor(
        [[uniform(seed, count) for count in range(64)] for seed in range(256)], dtype=torch.float64
    )
    assert 0 <= numbers.min() < 0.001
    assert 0.999 < numbers.max() < 1
    assert numbers.unique().numel() == numbers.numel()
    for table in (numbers, numbers.T.contiguous()):
        neighbours = torch.stack([table.flatten()[:-1], table.flatten()[1:]])
        assert abs(torch.corrcoef(neighbours)[0, 1]) < 0.03
    assert abs(numbers.mean() - 0.5) < 0.01


def test_greedy_logprobs_are_at_temperature_one_and_sampled_ones_at_their_own() -> None:
    logits = torch.tensor([[1.0, 2.0, 4.0]])
    _, greedy = choose_tokens(logits, [Sampling(temperature=0)], [0.5])
    assert greedy == pytest.approx([logits.log_softmax(-1)[0, 2].item()], abs=1e-6)
    chosen, cold = choose_tokens(logits, [Sampling(temperature=0.5)], [0.5])
    assert cold == pytest.approx([(logits / 0.5).log_softmax(-1)[0, chosen[0]].item()], abs=1e-6)


def test_more_conversations_than_slots_are_served_in_order() -> None:
    model = build()
    original = copy.deepcopy(model)
    engine = engine_of(model, concurrency=2)
    finished: list[int] = []

    async def one(number: int) -> Generation:
        generation = await turn(engine, tokens(5, number))
        finished.append(number)
        return generation

    generations = run_all(*(one(number) for number in range(7)))
    assert finished == list(range(7))
    for number, generation in enumerate(generations):
        same(generation, reference(original, tokens(5, number), 12))


def test_a_conversation_in_a_tool_keeps_its_slot_and_holds_up_nobody() -> None:
    engine = engine_of(build(), concurrency=2)

    async def main() -> None:
        slow = engine.conversation(0)
        await slow.generate([1, 2, 3], GREEDY)
        for number in range(3):  # The other slot serves the rest, one after the other.
            await turn(engine, tokens(4, number))
        waiting = [asyncio.create_task(turn(engine, tokens(4, number))) for number in range(3)]
        await asyncio.gather(*waiting)
        last = await slow.generate([4], GREEDY)
        assert len(last.token_ids) == 12
        slow.close()

    asyncio.run(main())


def test_closing_the_last_open_conversation_lets_a_waiting_one_in() -> None:
    engine = engine_of(build(), concurrency=1)

    async def main() -> None:
        holder = engine.conversation(0)
        await holder.generate([1], GREEDY)
        waiting = asyncio.create_task(turn(engine, [2]))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not waiting.done()
        holder.close()
        holder.close()
        assert len((await asyncio.wait_for(waiting, 30)).token_ids) == 12

    asyncio.run(main())


def test_cancellation_frees_the_slot_and_disturbs_nobody() -> None:
    model = build()
    original = copy.deepcopy(model)
    engine = engine_of(model, concurrency=3)
    long = Sampling(0, max_tokens=500)

    async def main() -> None:
        doomed = engine.conversation(0)
        running = asyncio.create_task(doomed.generate(tokens(9, 0), long))
        others = [asyncio.create_task(turn(engine, tokens(6, number))) for number in (1, 2)]
        queued = asyncio.create_task(turn(engine, tokens(6, 3)))
        never_in = asyncio.create_task(turn(engine, tokens(6, 4), long))
        while engine.stats.sampled_tokens < 6:
            await asyncio.sleep(0)
        running.cancel()
        never_in.cancel()
        for task in (running, never_in):
            with pytest.raises(asyncio.CancelledError):
                await task
        for number, generation in enumerate(await asyncio.gather(*others, queued), start=1):
            same(generation, reference(original, tokens(6, number), 12))
        with pytest.raises(RuntimeError, match="closed"):
            await doomed.generate([1], GREEDY)

    asyncio.run(main())
    engine.weights_changed()  # Raises if a slot were still held.


def test_cancellation_at_any_moment_disturbs_nobody() -> None:
    model = build()
    expected = reference(copy.deepcopy(model), tokens(6, 1), 12)

    async def main(engine: TorchEngine, moment: int) -> None:
        doomed = asyncio.create_task(turn(engine, tokens(9, 0), Sampling(0, max_tokens=2)))
        other = asyncio.create_task(turn(engine, tokens(6, 1)))
        for _ in range(moment):
            await asyncio.sleep(0)
        doomed.cancel()
        same(await other, expected)

    for moment in range(40):
        asyncio.run(main(engine_of(model), moment))


def test_misuse_is_refused_before_anything_is_computed() -> None:
    engine = engine_of(build(), context=20)

    async def main() -> None:
        conversation = engine.conversation(0)
        for ids, sampling, message in [
            (tokens(20, 1), GREEDY, "context holds 20"),
            ([], GREEDY, "at least one token"),
            ([1, VOCABULARY], GREEDY, "between 0 and 96"),
            ([-1], GREEDY, "between 0 and 96"),
            ([1], Sampling(max_tokens=0), "max_tokens"),
        ]:
            with pytest.raises(ValueError, match=message):
                await conversation.generate(ids, sampling)
        assert engine.stats.prefilled_tokens == 0
        generation = await conversation.generate(tokens(15, 1), GREEDY)
        assert len(generation.token_ids) == 5
        assert generation.finish is Finish.LENGTH
        with pytest.raises(ValueError, match="context holds 20"):
            await conversation.generate([], GREEDY)
        conversation.close()
        with pytest.raises(RuntimeError, match="closed"):
            await conversation.generate([1], GREEDY)
        second = engine.conversation(1)
        task = asyncio.create_task(second.generate([1], GREEDY))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="in a turn"):
            await second.generate([1], GREEDY)
        assert len((await task).token_ids) == 12
        second.close()

    asyncio.run(main())


def test_an_exception_inside_a_step_reaches_all_that_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build()
    original = copy.deepcopy(model)
    engine = engine_of(model, concurrency=2)

    def fail(*_: object) -> None:
        raise MemoryError("no more")

    async def main() -> None:
        tasks = [asyncio.create_task(turn(engine, tokens(5, number))) for number in range(4)]
        while engine.stats.sampled_tokens < 6:
            await asyncio.sleep(0)
        with monkeypatch.context() as patch:
            patch.setattr(model.model.layers[1].mlp, "forward", fail)
            outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
        assert [type(outcome) for outcome in outcomes] == [MemoryError] * 4
        same(await turn(engine, tokens(5, 9)), reference(original, tokens(5, 9), 12))

    asyncio.run(main())


def test_a_diverged_model_says_so() -> None:
    model = build()
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    for sampling in (GREEDY, Sampling(), Sampling(top_k=5)):
        with pytest.raises(FloatingPointError, match="diverged"):
            run_all(turn(engine_of(model), [1, 2], sampling))


def test_changed_weights_count_at_once() -> None:
    """The engine runs the learner's own parameters; no key or value of the old ones survives."""
    model = build()
    prefix = tokens(40, 1)

    engine = engine_of(model)

    async def main() -> None:
        engine.share_prefix(prefix)
        before = await turn(engine, [*prefix, 5])
        assert before.policy_version == 0
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.3)
        engine.weights_changed()
        after = await turn(engine, [*prefix, 5])
        assert after.policy_version == 1
        fresh = build()
        fresh.load_state_dict(model.state_dict())
        same(after, reference(fresh, [*prefix, 5], 12))
        assert after.logprobs != pytest.approx(before.logprobs, abs=1e-3)

        held = engine.conversation(0)
        await held.generate([1], GREEDY)
        with pytest.raises(RuntimeError, match="open"):
            engine.weights_changed()
        held.close()
        engine.weights_changed()

    asyncio.run(main())
    assert engine.policy_version == 2
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_engine_outlives_its_event_loop() -> None:
    model = build()
    original = copy.deepcopy(model)
    engine = engine_of(model)
    for number in range(3):
        same(run_all(turn(engine, [number]))[0], reference(original, [number], 12))


def test_bfloat16_is_as_near_to_float32_as_transformers_is() -> None:
    model = build("llama").to(torch.bfloat16)
    original, exact = copy.deepcopy(model), copy.deepcopy(model).float()
    engine = engine_of(model)
    engine.share_prefix(tokens(50, 0))
    prompts = [tokens(50, 0) + tokens(5 * number, number) for number in range(1, 12)]
    generations = run_all(*(turn(engine, p, Sampling(max_tokens=20), seed=1) for p in prompts))
    ours = theirs = 0.0
    for prompt, generation in zip(prompts, generations, strict=True):
        ids = prompt + generation.token_ids
        truth = torch.tensor(scored(exact, ids, 20))
        ours += (torch.tensor(generation.logprobs) - truth).abs().sum().item()
        theirs += (torch.tensor(scored(original, ids, 20)) - truth).abs().sum().item()
    assert ours < 1.25 * theirs
    assert theirs > 0
