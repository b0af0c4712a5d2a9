"""Rewards by name: pure functions of a trajectory, weighted in the recipe (docs/rewards.md)."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from nanoscout.errors import UserError
from nanoscout.records import Trajectory
from nanoscout.rewards.calls import repeated_calls, visit_to_search
from nanoscout.rewards.correctness import answer_f1, correctness, substring
from nanoscout.rewards.evidence import evidence
from nanoscout.rewards.form import format_, xml_structure
from nanoscout.rewards.judged import judged
from nanoscout.rewards.own import own_reward
from nanoscout.rewards.thoughts import efficient_thinking, no_thinking, tag_count
from nanoscout.rewards.tool_execution import tool_execution

Reward = Callable[[Trajectory], float]

REWARDS: dict[str, Reward] = {
    "correctness": correctness,
    "f1": answer_f1,
    "substring": substring,
    "judge": judged,
    "evidence": evidence,
    "tool_execution": tool_execution,
    "visit_to_search": visit_to_search,
    "repeated_calls": repeated_calls,
    "format": format_,
    "xml_structure": xml_structure,
    "tag_count": tag_count,
    "efficient_thinking": efficient_thinking,
    "no_thinking": no_thinking,
}

OUTCOMES = frozenset({"correctness", "substring", "judge"})
"""Rewards that say whether an answer is right: 1 or 0."""


@dataclass(frozen=True, slots=True)
class Scores:
    parts: dict[str, float]
    """Each reward before weighting."""
    total: float
    """The weighted sum."""


def score(trajectory: Trajectory, weights: Mapping[str, float]) -> Scores:
    parts = {name: find_reward(name)(trajectory) for name in weights}
    return Scores(parts, sum(weight * parts[name] for name, weight in weights.items()))


@cache
def find_reward(name: str) -> Reward:
    """A reward by its name, or one's own by `module:function`.

    Raises UserError for a name that does not exist, with the nearest one that does, and for a
    function that is no reward.
    """
    if ":" in name:
        return own_reward(name)
    if name not in REWARDS:
        near = difflib.get_close_matches(name, REWARDS, n=1, cutoff=0.0)[0]
        raise UserError(
            f"there is no reward '{name}'; did you mean '{near}'? "
            "One of your own is named as module:function"
        )
    return REWARDS[name]
