"""Rewards by name: pure functions of a trajectory, weighted in the recipe."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nanoscout.errors import UserError
from nanoscout.records import Trajectory
from nanoscout.rewards.correctness import answer_f1, correctness
from nanoscout.rewards.evidence import evidence
from nanoscout.rewards.form import format_, xml_structure
from nanoscout.rewards.tool_execution import tool_execution

Reward = Callable[[Trajectory], float]

REWARDS: dict[str, Reward] = {
    "correctness": correctness,
    "tool_execution": tool_execution,
    "format": format_,
    "xml_structure": xml_structure,
    "evidence": evidence,
    "f1": answer_f1,
}


@dataclass(frozen=True, slots=True)
class Scores:
    parts: dict[str, float]
    """Each reward before weighting."""
    total: float
    """The weighted sum."""


def score(trajectory: Trajectory, weights: Mapping[str, float]) -> Scores:
    parts = {name: REWARDS[name](trajectory) for name in weights}
    return Scores(parts, sum(weight * parts[name] for name, weight in weights.items()))


def check_names(weights: Mapping[str, float]) -> None:
    """Raise UserError for a reward that does not exist, with the nearest one that does."""
    for name in weights:
        if name not in REWARDS:
            near = difflib.get_close_matches(name, REWARDS, n=1, cutoff=0.0)[0]
            raise UserError(f"there is no reward '{name}'; did you mean '{near}'?")
