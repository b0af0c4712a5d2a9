"""The answer in a framework's last message, so that grading is fair between frameworks."""

import re

from nanoscout.dialogue.thinking import after_thinking

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def final_answer(text: str) -> str | None:
    """What stands in `<answer>` tags, else all of the text without its thoughts; None where that
    is nothing, or is a call that was never made."""
    said = after_thinking(text)
    tagged = _TAGGED.search(said)
    answer = (tagged[1] if tagged else said).strip()
    return None if not answer or "<tool" in answer else answer
