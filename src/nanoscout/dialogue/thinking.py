"""The think switch: whether a model reasons in a `<think>` block before each turn.

Off can mean several things, each a device of its own (`dialogue.non_thinking`):

 - `empty_block`: the chat template puts an empty think block into the prompt where it knows how
   (`enable_thinking`, as Qwen3's does; others ignore it);
 - `no_think`: each user turn ends with Qwen3's soft switch `/no_think`;
 - `ban`: the opening think token is banned while sampling.

On, a model may think; its thoughts are counted, and may be cut from the history as its template
does (`Dialogue.cut_thoughts`).
"""

from transformers import PreTrainedTokenizerBase

OPEN, CLOSE = "<think>", "</think>"
SOFT_SWITCH = " /no_think"
EMPTY_BLOCK, NO_THINK, BAN = "empty_block", "no_think", "ban"


def banned_ids(tokenizer: PreTrainedTokenizerBase, *, banned: bool) -> frozenset[int]:
    """The opening think token where it is banned; nothing where it is not a single token."""
    ids = tokenizer.encode(OPEN, add_special_tokens=False) if banned else []
    return frozenset(ids) if len(ids) == 1 else frozenset()


def before_turn(thought: str) -> str:
    """The think block of a turn, as Qwen3's template writes it."""
    return f"{OPEN}\n{thought}\n{CLOSE}\n\n"


def after_thinking(text: str) -> str:
    """A turn without its think block; nothing of a turn that never stops thinking.

    The block may lack its opening tag, since some templates put that into the prompt.
    """
    _, closed, rest = text.partition(CLOSE)
    if closed:
        return rest
    return "" if text.lstrip().startswith(OPEN) else text
