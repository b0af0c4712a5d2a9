"""How many training questions there are by hop type, also where their files are not there yet."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from nanoscout.questions import load_questions
from nanoscout.questions.quota import OFFICIAL_TRAIN
from nanoscout.recipe import QuestionsSpec, Recipe, StageSpec

Counts = dict[str, int]
"""By hop type, such as `3hop1`; `4hop` where only the sum of its kinds is known."""


def count_questions(recipe: Recipe) -> tuple[Counts | None, str]:
    """Training questions, and a remark where they could not be counted in the files.

    None where nothing tells. Raises UserError for files that are there and cannot be used.
    """
    spec = recipe.questions
    missing = _missing(spec)
    if not missing:
        train = load_questions(spec, recipe.seed).train
        return dict(Counter(question.hop_type for question in train)), ""
    said = f"not there yet: {', '.join(missing)}"
    if spec.source != "musique" or not spec.quotas:
        return None, said
    # The kinds of 4hop are known as their sum, of which their quotas together allow so many.
    allowed = {
        hop_type: sum(quota for kind, quota in spec.quotas.items() if kind.startswith(hop_type))
        for hop_type in OFFICIAL_TRAIN
    }
    counts = {h: min(count, allowed[h]) for h, count in OFFICIAL_TRAIN.items() if allowed[h]}
    return counts, f"{said}; counted as in the official train split"


def asked_in(stage: StageSpec, spec: QuestionsSpec, counts: Mapping[str, int]) -> Counts:
    """Those of `counts` that a stage draws from."""
    mix = {*(stage.hops or spec.quotas or spec.hops)}
    if stage.anneal and stage.anneal.hops:
        mix |= {*stage.anneal.hops}
    return {h: count for h, count in counts.items() if any(kind.startswith(h) for kind in mix)}


def by_hops(counts: Mapping[str, int]) -> Counts:
    """The kinds of each number of hops together (`3hop`), and the `total`."""
    hops: Counter[str] = Counter()
    for hop_type, count in counts.items():
        hops[f"{hop_type[0]}hop"] += count
    return {**dict(sorted(hops.items())), "total": hops.total()}


def _missing(spec: QuestionsSpec) -> list[str]:
    """Files and folders that the source needs and that are not there, each with its setting."""
    if spec.source == "world":
        return []
    needed = {"questions.path": spec.path or "not set"}
    if spec.held_out_path:
        needed["questions.held_out_path"] = spec.held_out_path
    if spec.source == "jsonl":
        needed["questions.documents"] = spec.documents or "not set"
    needed |= {f"questions.corpus.{number}": path for number, path in enumerate(spec.corpus)}
    return [f"{path} ({name})" for name, path in needed.items() if not Path(path).exists()]
