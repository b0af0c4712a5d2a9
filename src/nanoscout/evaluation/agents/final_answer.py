"""The answer in a framework's last message, so that grading is fair between frameworks."""

import re

from nanoscout.dialogue.thinking import after_thinking

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def final_answer(text: str) -> str | None:
    """What stands in the last `<answer>` tags, else all of the text but its thoughts; None where
    that is nothing, or is a call that was never made."""
    said = after_thinking(text)
    tagged = _TAGGED.findall(said)
    if not tagged and "<tool" in said:
        return None
    return (tagged[-1] if tagged else said).strip() or None
