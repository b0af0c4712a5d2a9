"""The think switch: whether a model reasons in a `<think>` block before each turn.

Off means two things: the chat template puts an empty think block into the prompt where it knows how
(`enable_thinking`, as Qwen3's does; others ignore it), and the opening think token is banned while
sampling.
"""

from transformers import PreTrainedTokenizerBase

OPEN, CLOSE = "<think>", "</think>"


def banned_ids(tokenizer: PreTrainedTokenizerBase, thinking: bool) -> frozenset[int]:
    """The opening think token when thinking is off; nothing where it is not a single token."""
    ids = [] if thinking else tokenizer.encode(OPEN, add_special_tokens=False)
    return frozenset(ids) if len(ids) == 1 else frozenset()


def after_thinking(text: str) -> str:
    """A turn without its think block; nothing of a turn that never stops thinking.

    The block may lack its opening tag, since some templates put that into the prompt.
    """
    _, closed, rest = text.partition(CLOSE)
    if closed:
        return rest
    return "" if text.lstrip().startswith(OPEN) else text
