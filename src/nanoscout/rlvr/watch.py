"""Looking back on a stage's steps: has it learned what it can, or has the policy collapsed?

Pure functions of the stage's lines of metrics, so that a resumed run decides as an uninterrupted
one does. Every figure is a mean over the last `window` steps, since single steps are noisy.
"""

from collections.abc import Callable, Sequence
from typing import Any

from nanoscout.recipe import CollapseSpec, UntilSpec

Record = dict[str, Any]


def reached(spec: UntilSpec | None, records: Sequence[Record]) -> str:
    """Why the stage may end now; empty where it should go on."""
    if spec is None:
        return ""
    rewards = _means(records, spec.window, lambda record: record.get("reward"))
    if not rewards:
        return ""
    if spec.reward is not None and rewards[-1] >= spec.reward:
        return f"mean reward {rewards[-1]:.2f} has reached {spec.reward:g}"
    if spec.plateau is not None and len(rewards) > spec.plateau:
        before, since = max(rewards[: -spec.plateau]), max(rewards[-spec.plateau :])
        if since < before + spec.gain:
            return f"mean reward has not risen above {before:.2f} for {spec.plateau} steps"
    return ""


def collapsed(spec: CollapseSpec, records: Sequence[Record]) -> str:
    """What shows that the policy has collapsed; empty where nothing does.

    Malformed turns and lengths are judged by how the stage began: a policy that never had any form
    has not lost it.
    """
    entropy = _means(records, spec.window, _entropy)
    if entropy and entropy[-1] < spec.entropy:
        return f"mean entropy {entropy[-1]:.4f} is below {spec.entropy:g}"
    malformed = _means(records, spec.window, lambda record: record.get("malformed"))
    if malformed and malformed[-1] > spec.malformed >= 2 * min(malformed):
        return f"{malformed[-1]:.0%} of the conversations are malformed, {min(malformed):.0%} were"
    lengths = _means(records, spec.window, lambda record: record.get("sampled_tokens"))
    if lengths and not 1 / spec.length <= lengths[-1] / max(lengths[0], 1e-9) <= spec.length:
        return f"{lengths[-1]:.0f} tokens are sampled in a conversation, {lengths[0]:.0f} were"
    return ""


def _entropy(record: Record) -> float | None:
    learner = record["learner"]
    return learner["entropy"] if learner else None


def _means(
    records: Sequence[Record], window: int, value: Callable[[Record], float | None]
) -> list[float]:
    """Means over each `window` consecutive values, steps without one left out."""
    values = [found for record in records if (found := value(record)) is not None]
    return [sum(values[end - window : end]) / window for end in range(window, len(values) + 1)]
