"""Rewards for which tools are called, and how often."""

import json
from collections import Counter

from nanoscout.records import ToolCall, Trajectory

TOO_FEW_VISITS = -0.5
"""Of `visit_to_search`: no search, or more searches than visits."""


def visit_to_search(trajectory: Trajectory) -> float:
    """((r - 1) / 4) ** 0.25 for r visits a search, at most 1.0; -0.5 where r < 1.

    Counts calls that worked. `visit_tool_reward_func` of the report's authors
    (menloresearch/verifiers-deepresearch, verifiers/rubrics/tool_rubric.py): reading pays, and five
    visits a search pay all there is. There it rises on beyond five; here it stays at 1.0, so that
    opening pages without end earns nothing.
    """
    names = Counter(
        call.name
        for turn in trajectory.turns
        for call, result in zip(turn.calls, turn.results, strict=False)
        if result.ok
    )
    searches, visits = names["web_search"], names["visit"]
    if not searches or visits < searches:
        return TOO_FEW_VISITS
    return min(1.0, (visits / searches - 1) / 4) ** 0.25


def repeated_calls(trajectory: Trajectory) -> float:
    """Minus the share of calls that were made before in the same conversation, in (-1, 0].

    The same call: name and arguments agree but for case and white space. The report's authors ask
    for it in their prompt ("Never re-do a tool call ...") and later gave such conversations no
    format reward at all (janhq/verl, verl/utils/reward_score/jan_v2_reward/format_reward.py);
    here it is graded, and a reward of its own.
    """
    calls = [_canonical(call) for call in trajectory.calls]
    return (len(set(calls)) - len(calls)) / max(1, len(calls))


def _canonical(call: ToolCall) -> str:
    text = json.dumps([call.name, call.args], sort_keys=True, ensure_ascii=False)
    return "".join(text.casefold().split())
