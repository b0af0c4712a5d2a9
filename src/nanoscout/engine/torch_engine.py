"""Text generation in process, with the very model object that the learner trains.

Continuous batching: each step is one forward pass over the flat tokens of every conversation that
waits for something, one token for those that decode and a portion of the prompt for those that
begin a turn. A conversation keeps its slot of the cache between its turns. Tokens that another
conversation has computed already, from the first one on identical, are copied and not computed.

Everything happens in one event loop, without threads: `generate` files a request and awaits it, and
a driver task takes steps as long as there are requests. Between steps it lets the other tasks
run, so that in-process tools answer before the next step and the same requests give the same bits.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from nanoscout.engine.attention import check_model, head_logits, run_layers, torch_device
from nanoscout.engine.cached_attention import CachedAttention, Run
from nanoscout.engine.compiled_attention import CompiledAttention
from nanoscout.engine.fast_norm import quicken_norms
from nanoscout.engine.kernels import kernels_for
from nanoscout.engine.kv_cache import ROWS, CacheShape, KvCache, Slot
from nanoscout.engine.packed_linear import forget_packed, pack_linears
from nanoscout.engine.protocol import Finish, Generation, OnToken, Sampling
from nanoscout.engine.sampling import choose_tokens, uniform
from nanoscout.engine.shared_prefix import SharedPrefix, common_length

PREFILL_TOKENS = 1024
"""Tokens of prompts in one step: enough for full speed, few enough not to hold up decoding."""
WORTH_SHARING = 16
"""Tokens from which on waiting for another conversation's cache is better than computing."""
LOOP_TURNS = 8
"""Turns of the event loop between steps, in which tools may await a few things in a row."""


@dataclass(slots=True)
class EngineStats:
    """What the engine did since it was made."""

    sampled_tokens: int = 0
    prefilled_tokens: int = 0
    """Given tokens that went through the model."""
    reused_tokens: int = 0
    """Given tokens that did not: they stood in the shared prefix or in another conversation."""
    model_seconds: float = 0.0


@dataclass(slots=True, eq=False)
class _Request:
    conversation: "TorchConversation"
    sampling: Sampling
    max_tokens: int
    future: "asyncio.Future[Generation]"
    on_token: OnToken | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def is_awaited(self) -> bool:
        """False once cancelled, even if the conversation has not heard of it yet."""
        return not self.future.done()

    def append(self, token_id: int, logprob: float) -> Finish | None:
        self.token_ids.append(token_id)
        self.logprobs.append(logprob)
        self.conversation.token_ids.append(token_id)
        self.conversation.sampled += 1
        ended = self.on_token is not None and self.on_token(token_id)
        if ended or token_id in self.sampling.stop_ids:
            return Finish.STOP
        return Finish.LENGTH if len(self.token_ids) == self.max_tokens else None


class TorchConversation:
    """One conversation: its tokens, and its slot from its first turn until it is closed."""

    def __init__(self, engine: "TorchEngine", seed: int):
        self.seed = seed
        self.token_ids: list[int] = []
        self.sampled = 0
        self.slot: Slot | None = None
        self._engine = engine
        self._closed = False
        self._busy = False

    async def generate(
        self, new_ids: Sequence[int], sampling: Sampling, on_token: OnToken | None = None
    ) -> Generation:
        """Append `new_ids` to the conversation, then sample a turn and append that too.

        max_tokens is cut to what the context still holds. A turn that is cancelled, or that fails
        inside the engine, closes the conversation.
        Raises ValueError, before anything is computed, for ids outside the vocabulary, for a first
        turn without ids, for no room to sample even one token; RuntimeError for a conversation
        that is closed, or in a turn already.
        """
        if self._closed or self._busy:
            raise RuntimeError(f"the conversation is {'closed' if self._closed else 'in a turn'}")
        room = self._engine.check(self.token_ids, new_ids, sampling)
        self._busy = True
        try:
            self.token_ids.extend(new_ids)
            max_tokens = min(sampling.max_tokens, room)
            return await self._engine.submit(self, sampling, max_tokens, on_token)
        except BaseException:
            self.close()
            raise
        finally:
            self._busy = False

    def rewind(self, length: int) -> None:
        """Forget all tokens but the first `length`, and keep what is cached of these."""
        if self._busy:
            raise RuntimeError("the conversation is in a turn")
        del self.token_ids[length:]
        self._engine.rewind(self)

    def reseed(self, seed: int) -> None:
        """Sample from here on as a new conversation with this seed does."""
        self.seed, self.sampled = seed, 0

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._engine.release(self)


class TorchEngine:
    """`model` must not change while conversations are open; say `weights_changed` when it has.

    `concurrency` conversations are in the batch at most, further ones wait for one to be closed;
    `context` is the largest number of tokens of a conversation.
    """

    def __init__(self, model: PreTrainedModel, *, concurrency: int, context: int):
        check_model(model, context)
        pack_linears(model)
        quicken_norms(model)
        self.policy_version = 0
        self.stats = EngineStats()
        self._model = model
        self._concurrency = concurrency
        self._context = context
        shape = CacheShape.of(model)
        self._kernels = kernels_for(shape)
        self._cache = KvCache(shape, rows=min(ROWS, concurrency))
        self._members: list[TorchConversation] = []
        self._requests: list[_Request] = []
        self._driver: asyncio.Task[None] | None = None
        self._prefix = SharedPrefix(shape)

    @property
    def context_limit(self) -> int:
        return self._context

    @property
    def open_slots(self) -> int:
        """Conversations that hold a place in the cache."""
        return len(self._members)

    def conversation(self, seed: int) -> TorchConversation:
        return TorchConversation(self, seed)

    def share_prefix(self, prefix_ids: Sequence[int]) -> None:
        """Announce how conversations to come begin, in place of what was announced before.

        It is computed when the first of them begins and no open one attends to its predecessor.
        """
        self._prefix.announce(prefix_ids)

    def weights_changed(self) -> None:
        """Forget all that the old weights computed; raises RuntimeError in mid-conversation."""
        self.forget()
        forget_packed(self._model)
        self.policy_version += 1

    def forget(self) -> None:
        """Drop every cached key and value, so that what follows is as in a new engine."""
        if self._members or self._requests:
            raise RuntimeError("the cache cannot be dropped while conversations are open")
        self._prefix.forget()

    # What conversations call.

    def check(self, token_ids: list[int], new_ids: Sequence[int], sampling: Sampling) -> int:
        """Tokens that can be sampled after `new_ids`; raises ValueError where it can't be done."""
        length = len(token_ids) + len(new_ids)
        if length == 0:
            raise ValueError("a conversation's first turn needs at least one token")
        if sampling.max_tokens < 1:
            raise ValueError(f"max_tokens must be positive, got {sampling.max_tokens}")
        vocabulary = self._model.config.vocab_size
        if new_ids and not 0 <= min(new_ids) <= max(new_ids) < vocabulary:
            raise ValueError(f"token ids must lie between 0 and {vocabulary - 1}")
        if length >= self._context:
            raise ValueError(
                f"the context holds {self._context} tokens; {length} leave no room to sample"
            )
        return self._context - length

    async def submit(
        self,
        conversation: TorchConversation,
        sampling: Sampling,
        max_tokens: int,
        on_token: OnToken | None,
    ) -> Generation:
        future = asyncio.get_running_loop().create_future()
        self._requests.append(_Request(conversation, sampling, max_tokens, future, on_token))
        self._wake()
        return await future

    def release(self, conversation: TorchConversation) -> None:
        self._requests = [
            request for request in self._requests if request.conversation is not conversation
        ]
        if conversation.slot is not None:
            self._members.remove(conversation)
            self._cache.release(conversation.slot)
            conversation.slot = None
        if self._requests:
            self._wake()

    def rewind(self, conversation: TorchConversation) -> None:
        """Forget what is cached beyond a conversation's tokens; within the shared prefix, which
        others attend to, that takes giving its slot back."""
        slot = conversation.slot
        if slot is not None:
            shared = self._prefix.slot.length if slot.shares_prefix else 0
            if len(conversation.token_ids) < shared:
                self.release(conversation)
            else:
                slot.length = min(slot.length, len(conversation.token_ids) - shared)

    # Steps.

    def _wake(self) -> None:
        if self._driver is None or self._driver.done():
            self._driver = asyncio.get_running_loop().create_task(self._drive())

    async def _drive(self) -> None:
        try:
            while True:
                for _ in range(LOOP_TURNS):
                    await asyncio.sleep(0)
                self._requests = [request for request in self._requests if request.is_awaited]
                self._admit()
                if not any(request.conversation.slot for request in self._requests):
                    return
                self._step()
        except Exception as error:
            failed, self._requests = self._requests, []
            for request in failed:
                request.future.set_exception(error)

    def _admit(self) -> None:
        """Slots for those that wait for one, first come, first served."""
        for request in self._requests:
            conversation = request.conversation
            if conversation.slot is None and len(self._members) < self._concurrency:
                shares_prefix = self._shares_prefix(conversation.token_ids)
                conversation.slot = self._cache.claim(shares_prefix)
                self._members.append(conversation)

    def _step(self) -> None:
        """One forward pass; whoever has no token left to be computed samples one."""
        planned = self._plan()
        runs = [Run(_slot(request), count) for request, count in planned]
        token_ids, sampling_rows, requests = [], [], []
        for request, count in planned:
            ids = request.conversation.token_ids
            start = self._cached(_slot(request))
            token_ids += ids[start : start + count]
            if start + count == len(ids):
                requests.append(request)
                sampling_rows.append(len(token_ids) - 1)
            if not request.token_ids:
                self.stats.prefilled_tokens += count
        hidden = self._forward(self._cache, runs, token_ids)
        if requests:
            self._sample(hidden[sampling_rows], requests)

    def _plan(self) -> list[tuple[_Request, int]]:
        """Whose tokens go into the next pass, and how many: decoding ones first, by slot."""
        decoding: list[tuple[_Request, int]] = []
        prefills: list[tuple[_Request, int]] = []
        room = PREFILL_TOKENS
        for request in self._requests:
            conversation, slot = request.conversation, request.conversation.slot
            if slot is None:
                continue
            if len(conversation.token_ids) - self._cached(slot) > 1:
                self._reuse(conversation, slot)
            left = len(conversation.token_ids) - self._cached(slot)
            if left == 1:
                decoding.append((request, 1))
            elif room > 0 and not self._is_coming(conversation, slot, prefills):
                count = min(left, room)
                room -= count
                (decoding if count == 1 else prefills).append((request, count))
        decoding.sort(key=lambda planned: _slot(planned[0]).index)
        return decoding + prefills

    @torch.no_grad()
    def _forward(self, cache: KvCache, runs: list[Run], token_ids: list[int]) -> torch.Tensor:
        """Hidden states [N, hidden] of the runs' flat tokens, whose keys and values are stored."""
        started = time.perf_counter()
        device = torch_device(self._model)
        starts = [self._cached(run.slot) for run in runs]
        positions = torch.cat(
            [
                torch.arange(start, start + run.count)
                for start, run in zip(starts, runs, strict=True)
            ]
        )
        prefix = self._prefix if any(run.slot.shares_prefix for run in runs) else None
        plan = (
            CompiledAttention(self._kernels, cache, runs, prefix)
            if self._kernels
            else CachedAttention(cache, runs, prefix)
        )
        hidden = run_layers(
            self._model, torch.tensor(token_ids, device=device), positions.to(device), plan
        )
        for run in runs:
            run.slot.length += run.count
        self.stats.model_seconds += time.perf_counter() - started
        return hidden

    @torch.no_grad()
    def _sample(self, hidden: torch.Tensor, requests: list[_Request]) -> None:
        started = time.perf_counter()
        token_ids, logprobs = choose_tokens(
            head_logits(self._model, hidden),
            [request.sampling for request in requests],
            [
                uniform(request.conversation.seed, request.conversation.sampled)
                for request in requests
            ],
        )
        self.stats.model_seconds += time.perf_counter() - started
        self.stats.sampled_tokens += len(requests)
        for request, token_id, logprob in zip(requests, token_ids, logprobs, strict=True):
            finish = request.append(token_id, logprob)
            if finish is not None:
                self._requests.remove(request)
                generation = Generation(
                    request.token_ids, request.logprobs, finish, self.policy_version
                )
                request.future.set_result(generation)

    # What need not be computed.

    def _cached(self, slot: Slot) -> int:
        """Tokens of a conversation whose keys and values are there, the shared ones included."""
        return slot.length + (self._prefix.slot.length if slot.shares_prefix else 0)

    def _reuse(self, conversation: TorchConversation, slot: Slot) -> None:
        """Copy what the conversation that has most in common with this one holds already."""
        cached, last = self._cached(slot), len(conversation.token_ids) - 1
        best, best_length = slot, cached
        for other in self._members:
            assert other.slot is not None
            if other.slot.shares_prefix == slot.shares_prefix:
                stop = min(self._cached(other.slot), last)
                common = common_length(conversation.token_ids, other.token_ids, cached, stop)
                if common > best_length:
                    best, best_length = other.slot, common
        if best_length - cached >= WORTH_SHARING:
            self._cache.reuse(slot, best, slot.length + best_length - cached)
            self.stats.reused_tokens += best_length - cached

    def _is_coming(
        self,
        conversation: TorchConversation,
        slot: Slot,
        prefills: list[tuple[_Request, int]],
    ) -> bool:
        """Whether a prefill planned for the same step computes what this one needs next."""
        cached, last = self._cached(slot), len(conversation.token_ids) - 1
        for request, count in prefills:
            other_slot = _slot(request)
            if other_slot.shares_prefix == slot.shares_prefix:
                stop = min(self._cached(other_slot) + count, last)
                others = request.conversation.token_ids
                common = common_length(conversation.token_ids, others, cached, stop)
                if common - cached >= WORTH_SHARING:
                    return True
        return False

    def _shares_prefix(self, token_ids: list[int]) -> bool:
        """Whether a new conversation can attend to the shared prefix, which is then computed."""
        if not any(slot.shares_prefix for slot in self._cache.slots):
            self._prefix.take_up()
        if not self._prefix.begins(token_ids):
            return False
        self.stats.reused_tokens += self._prefix.slot.length
        while part := self._prefix.missing[:PREFILL_TOKENS]:
            self._forward(self._prefix.cache, [Run(self._prefix.slot, len(part))], part)
            self.stats.prefilled_tokens += len(part)
        return True


def _slot(request: _Request) -> Slot:
    slot = request.conversation.slot
    assert slot is not None
    return slot
