"""The plan of a run: questions, tokens, steps, checkpoints, and memory against what there is."""

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from nanoscout.engine.attention import check_model
from nanoscout.errors import UserError
from nanoscout.models.load import load_config, readable
from nanoscout.planning.activations import empty_model
from nanoscout.planning.advice import Advice, advise
from nanoscout.planning.memory import Estimator, Memory, ModelSize
from nanoscout.planning.questions import Counts, asked_in, by_hops, count_questions
from nanoscout.recipe import Recipe, StageSpec

UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, slots=True)
class StagePlan:
    name: str
    steps: int
    questions: Counts | None
    """By number of hops, with the total; None where the files are not there."""
    rollouts: int
    """In a round of a step."""
    rounds: int
    """Of a step, at the most."""
    context: int
    """Tokens of a conversation, at the most."""

    @property
    def tokens(self) -> int:
        """In a round of a step, at the most."""
        return self.rollouts * self.context


@dataclass(frozen=True, slots=True)
class Plan:
    recipe: Recipe
    size: ModelSize
    questions: Counts | None
    """By number of hops, with the total: those that some stage draws from."""
    remark: str
    """On the questions."""
    stages: tuple[StagePlan, ...]
    device: str
    available: int
    """Bytes of memory."""
    memory: Memory
    advice: tuple[Advice, ...]
    """What to change, one after the other, until it fits; empty where it does."""

    @property
    def fits(self) -> bool:
        return self.memory.peak <= self.available

    @property
    def checkpoint_bytes(self) -> int:
        return self.size.optimiser_bytes(self.recipe.optimiser)

    @property
    def disk_bytes(self) -> int:
        """The checkpoints that are kept, one that is being written, and the trained model."""
        model = self.size.parameters * self.size.bytes_each
        return self.checkpoint_bytes * (self.recipe.checkpoint.keep + 1) + model

    def to_json(self) -> dict[str, Any]:
        """Sizes in bytes."""
        return {
            "recipe": self.recipe.name,
            "model": {
                "source": self.recipe.model.source,
                "parameters": self.size.parameters,
                "trained": sum(self.size.trained),
            },
            "questions": self.questions,
            "remark": self.remark,
            "stages": [asdict(stage) | {"tokens_a_round": stage.tokens} for stage in self.stages],
            "steps": sum(stage.steps for stage in self.stages),
            "updates": self.recipe.updates,
            "checkpoint_bytes": self.checkpoint_bytes,
            "disk_bytes": self.disk_bytes,
            "device": self.device,
            "available": self.available,
            "memory": asdict(self.memory)
            | {"rolling_out": self.memory.rolling_out, "learning": self.memory.learning},
            "peak": self.memory.peak,
            "kv_bytes_a_token": self.size.kv_bytes,
            "fits": self.fits,
            "advice": [asdict(advice) for advice in self.advice],
        }


def make_plan(recipe: Recipe, available: str = "") -> Plan:
    """Plan for this machine's memory or, where `available` names one such as 24GB, for that.

    Loads no weights. Raises UserError for unusable questions, model or `available`.
    """
    device = _device(recipe.model.device)
    limit = parse_memory(available) if available else memory_of(device)
    estimator = _estimator(recipe, device)
    counts, remark = count_questions(recipe)
    stages = tuple(_stage_plan(recipe, stage, counts) for stage in recipe.stage)
    questions = None
    if counts is not None:
        drawn = [asked_in(stage, recipe.questions, counts) for stage in recipe.stage]
        questions = by_hops({kind: n for some in drawn for kind, n in some.items()})
    return Plan(
        recipe=recipe,
        size=estimator.size(recipe),
        questions=questions,
        remark=remark,
        stages=stages,
        device=device,
        available=limit,
        memory=estimator.memory(recipe),
        advice=advise(recipe, limit, estimator.memory),
    )


def parse_memory(text: str) -> int:
    """Bytes of a size such as 24GB, 22.5GiB or 512MB."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([A-Z]+)", text.strip().upper())
    if not match or match[2] not in UNITS or not float(match[1]):
        raise UserError(f"--memory {text}: write it as 24GB, 22.5GiB or 512MB")
    return round(float(match[1]) * UNITS[match[2]])


def memory_of(device: str) -> int:
    """Bytes of memory of the device, or of this process's share of the machine's."""
    if device == "cuda":
        if not torch.cuda.is_available():
            raise UserError("model.device: this machine has no cuda; say how much with --memory")
        return int(torch.cuda.get_device_properties(0).total_memory)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    share = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else "max"
    return machine if share == "max" else min(machine, int(share))


def _device(name: str) -> str:
    """The kind of device; one that this machine lacks can be planned for."""
    if name == "auto":
        cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
        return "cuda" if cuda else "mps" if mps else "cpu"
    return name.partition(":")[0]


def _estimator(recipe: Recipe, device: str) -> Estimator:
    """Raises UserError for a model that the engine does not take or the trace can't follow."""
    source = recipe.model.source
    config = load_config(source)
    with readable(source):
        dtype = getattr(torch, recipe.model.dtype)
        model = empty_model(config, dtype, config.num_hidden_layers, None)
    estimator = Estimator(config, device)
    try:
        check_model(model, max(stage.context for stage in recipe.stage))
        estimator.memory(recipe)
    except RuntimeError as error:  # torch's: an operation that needs numbers
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"model '{source}': no plan can be made for it: {reason}") from error
    return estimator


def _stage_plan(recipe: Recipe, stage: StageSpec, counts: Counts | None) -> StagePlan:
    return StagePlan(
        name=stage.name,
        steps=stage.steps,
        questions=None if counts is None else by_hops(asked_in(stage, recipe.questions, counts)),
        rollouts=stage.groups * stage.group_size,
        rounds=stage.max_rounds if stage.dynamic_sampling else 1,
        context=stage.context,
    )
