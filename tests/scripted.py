"""An engine that says what a test tells it to, through the real tokens of a real tokenizer."""

import asyncio
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from nanoscout.engine.protocol import Finish, Generation, OnToken, Sampling

Reply = Callable[[str, int], str]
"""(text of the conversation so far, seed) -> the turn; end-of-turn is added to it."""


class ScriptedConversation:
    def __init__(self, tokenizer: PreTrainedTokenizerBase, reply: Reply, seed: int):
        self.tokenizer = tokenizer
        self.reply = reply
        self.seed = seed
        self.token_ids: list[int] = []
        self.closed = False

    async def generate(
        self, new_ids: Sequence[int], sampling: Sampling, on_token: OnToken | None = None
    ) -> Generation:
        self.token_ids += new_ids
        text = self.reply(self.tokenizer.decode(self.token_ids), self.seed)
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        ids = [*ids, self.tokenizer.eos_token_id][: sampling.max_tokens]
        ended = False
        for count, token_id in enumerate(ids, start=1):
            if on_token is not None and on_token(token_id):
                ids, ended = ids[:count], True
                break
            await asyncio.sleep(0)
        self.token_ids += ids
        ended = ended or ids[-1] == self.tokenizer.eos_token_id
        finish = Finish.STOP if ended else Finish.LENGTH
        return Generation(ids, [-1.0] * len(ids), finish, policy_version=3)

    def rewind(self, length: int) -> None:
        del self.token_ids[length:]

    def close(self) -> None:
        self.closed = True


class ScriptedEngine:
    def __init__(self, tokenizer: PreTrainedTokenizerBase, reply: Reply, context: int = 100_000):
        self.tokenizer = tokenizer
        self.reply = reply
        self.context_limit = context
        self.conversations: list[ScriptedConversation] = []

    def conversation(self, seed: int) -> ScriptedConversation:
        self.conversations.append(ScriptedConversation(self.tokenizer, self.reply, seed))
        return self.conversations[-1]

    def share_prefix(self, prefix_ids: Sequence[int]) -> None:
        pass
