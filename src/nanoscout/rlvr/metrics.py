"""What a step is summed up to: one flat, readable line of metrics.jsonl."""

from collections import Counter, defaultdict
from typing import Any

from nanoscout.rewards.correctness import correctness
from nanoscout.rlvr.batch import Batch
from nanoscout.rlvr.learner import StepStats


def batch_metrics(batch: Batch) -> dict[str, Any]:
    """Means over all fresh trajectories of the batch, dropped groups included."""
    trajectories = [t for group in batch.fresh for t in group.trajectories]
    scores = [s for group in batch.fresh for s in group.scores]
    groups = {
        "fresh": len(batch.fresh),
        "dropped": batch.dropped,
        "trained": len(batch.groups),
        "rounds": batch.rounds,
        "unavailable": batch.unavailable,
        "ungraded": batch.ungraded,
    }
    if not trajectories:
        return {"groups": groups}
    right_by_hops: dict[str, list[float]] = defaultdict(list)
    for trajectory in trajectories:
        right_by_hops[str(trajectory.question.hops)].append(correctness(trajectory))
    stops = Counter(str(t.stop) for t in trajectories)
    return {
        "reward": _mean([s.total for s in scores]),
        "rewards": {name: _mean([s.parts[name] for s in scores]) for name in scores[0].parts},
        "correct": _mean([correctness(t) for t in trajectories]),
        "correct_by_hops": {hops: _mean(right) for hops, right in sorted(right_by_hops.items())},
        "tool_use": _mean([float(bool(t.calls)) for t in trajectories]),
        "calls": _mean([float(len(t.calls)) for t in trajectories]),
        "visits": _mean([float(sum(c.name == "visit" for c in t.calls)) for t in trajectories]),
        "faults": _mean([float(sum(len(r.faults) for r in t.results)) for t in trajectories]),
        "malformed": _mean([float(any(u.kind.malformed for u in t.turns)) for t in trajectories]),
        "sampled_tokens": _mean([float(t.sampled_tokens) for t in trajectories]),
        "think_tokens": _mean([float(t.think_tokens) for t in trajectories]),
        "stops": {reason: count / len(trajectories) for reason, count in sorted(stops.items())},
        "groups": groups,
    }


def learner_metrics(stats: StepStats) -> dict[str, Any]:
    return {name: getattr(stats, name) for name in stats.__slots__}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
