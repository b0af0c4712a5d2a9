"""The plan of a run: questions, steps, memory against what there is, and what to change."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PretrainedConfig

from nanoscout.cli import main
from nanoscout.engine.fast_layers import quicken
from nanoscout.engine.packed_linear import is_packed
from nanoscout.errors import UserError
from nanoscout.models.load import load_config, load_model
from nanoscout.models.lora import add_adapters
from nanoscout.planning.activations import LiveBytes, activations
from nanoscout.planning.advice import advise
from nanoscout.planning.memory import Estimator, Memory
from nanoscout.planning.plan import make_plan, memory_of, parse_memory
from nanoscout.recipe import LoraSpec, ModelSpec, Recipe
from nanoscout.recipe_file import load_recipe
from nanoscout.rlvr.checkpoint import save_checkpoint
from nanoscout.rlvr.learner import Learner
from nanoscout.rlvr.packing import Sample

ROOT = Path(__file__).parent.parent
JAN_NANO = ROOT / "recipes" / "jan-nano.toml"
SMOKE = ROOT / "recipes" / "smoke.toml"
REPORTED = {"2hop": 7_000, "3hop": 2_150, "4hop": 1_175, "total": 10_325}


class Cli:
    """`nanoscout train` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *args: str) -> tuple[int, str]:
        """Exit code, and what was printed where."""
        self._monkeypatch.setattr(sys, "argv", ["nanoscout", "train", *args])
        with pytest.raises(SystemExit) as exited:
            main()
        printed = self._capsys.readouterr()
        code = int(exited.value.code or 0)
        return code, printed.err if code else printed.out


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    monkeypatch.chdir(tmp_path)
    return Cli(monkeypatch, capsys)


@pytest.fixture(scope="module")
def jan_nano(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The plan of the report's recipe for a GPU of 80 GB, where nothing was downloaded yet."""
    place = tmp_path_factory.mktemp("empty")
    result = subprocess.run(
        [sys.executable, "-m", "nanoscout", "train", str(JAN_NANO), "--plan", "--json",
         "--memory", "80GB", "--set", "model.device=cuda"],
        cwd=place, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert list(place.iterdir()) == []
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_reports_recipe_before_anything_is_downloaded(jan_nano: dict[str, Any]) -> None:
    assert jan_nano["questions"] == REPORTED
    assert "data/musique_ans_v1.0_train.jsonl" in jan_nano["remark"]
    assert jan_nano["model"]["parameters"] == 4_022_468_096
    assert [stage["questions"] for stage in jan_nano["stages"]] == [REPORTED] * 3
    assert [stage["context"] for stage in jan_nano["stages"]] == [8_192, 8_192, 40_960]
    assert jan_nano["stages"][2]["tokens_a_round"] == 64 * 16 * 40_960
    assert (jan_nano["steps"], jan_nano["updates"]) == (483, 966)
    assert jan_nano["checkpoint_bytes"] == 12 * 4_022_468_096
    memory = jan_nano["memory"]
    assert memory["weights"] == 2 * 4_022_468_096
    assert memory["optimiser"] == 12 * 4_022_468_096
    assert memory["kv_cache"] == 64 * 40_960 * 36 * 2 * 8 * 128 * 2
    assert jan_nano["peak"] == memory["rolling_out"] > memory["learning"]


def test_it_says_what_to_change_until_the_reports_recipe_fits(jan_nano: dict[str, Any]) -> None:
    assert not jan_nano["fits"]
    changes = [advice["set"] for advice in jan_nano["advice"]]
    assert jan_nano["advice"][-1]["peak"] <= 80e9
    changed = load_recipe(JAN_NANO, ["model.device=cuda", *changes])
    plan = make_plan(changed, "80GB")
    assert plan.fits
    assert not plan.advice
    assert plan.memory.peak == jan_nano["advice"][-1]["peak"]


def test_a_plan_for_people(cli: Cli, tmp_path: Path) -> None:
    code, printed = cli(str(SMOKE), "--plan", "--memory", "4GB")
    assert code == 0
    for said in ("tiny:qwen3", "mechanics", "1hop", "7 steps", "KV cache", "It fits"):
        assert said in printed
    assert list(tmp_path.iterdir()) == []


def test_another_memory_is_planned_for(cli: Cli) -> None:
    code, printed = cli(str(SMOKE), "--plan", "--memory", "200MB")
    assert code == 0
    assert "It does not fit" in printed
    assert "0.2 GB" in printed


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--plan", "--memory", "24"], "--memory 24: write it as 24GB"),
        (["--memory", "24GB"], "--memory and --json go with --plan"),
        (["--json"], "--memory and --json go with --plan"),
        (["--plan", "--set", "model.source=./nowhere"], "no such folder"),
        (["--plan", "--set", "model.device=cuda"], "say how much with --memory"),
    ],
)
def test_bad_input_is_one_line(cli: Cli, args: list[str], said: str) -> None:
    if "model.device=cuda" in args and torch.cuda.is_available():
        pytest.skip("this machine has cuda")
    code, printed = cli(str(SMOKE), *args)
    assert code == 2
    (line,) = printed.strip().splitlines()
    assert said in line


def test_sizes_of_memory() -> None:
    assert parse_memory("24GB") == 24_000_000_000
    assert parse_memory(" 1.5 gib") == 1_610_612_736
    for text in ("", "GB", "24", "-1GB", "0GB", "24 hours", "1e3GB", "nanGB"):
        with pytest.raises(UserError, match="write it as"):
            parse_memory(text)
    assert 10**8 < memory_of("cpu") < 10**15


# Questions whose files are there


def musique(path: Path, counts: dict[str, int]) -> str:
    lines = []
    for hop_type, count in counts.items():
        hops = int(hop_type[0])
        for n in range(count):
            names = [f"{hop_type} {n} {hop}" for hop in range(hops)]
            record = {
                "id": f"{hop_type}__{path.name}_{n}",
                "question": f"Where is {path.name} {hop_type} {n}?",
                "answer": names[-1],
                "question_decomposition": [
                    {"question": f"{name}?", "answer": name, "paragraph_support_idx": hop}
                    for hop, name in enumerate(names)
                ],
                "paragraphs": [
                    {"idx": hop, "title": name, "paragraph_text": f"{name}."}
                    for hop, name in enumerate(names)
                ],
            }
            lines.append(json.dumps(record) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


def small_musique(*overrides: str) -> Recipe:
    settings = ["model.source=tiny:qwen3", "model.device=cpu", *overrides]
    settings += [f"stage.{n}.context=512" for n in range(3)]
    return load_recipe(JAN_NANO, settings)


def test_questions_are_counted_in_the_files(tmp_path: Path) -> None:
    train = musique(tmp_path / "train", {"2hop": 30, "3hop1": 9, "4hop1": 5, "4hop2": 1})
    dev = musique(tmp_path / "dev", {"2hop": 3})
    files = [f"questions.path={train}", f"questions.held_out_path={dev}", "questions.corpus=[]"]
    quotas = "questions.quotas={2hop = 20, 3hop1 = 30, 4hop1 = 2}"
    hops = "stage.0.hops={2hop = 1.0, 1hop = 1.0}"
    plan = make_plan(small_musique(*files, quotas, hops))
    assert plan.remark == ""
    assert plan.questions == {"1hop": 69, "2hop": 20, "3hop": 9, "4hop": 2, "total": 100}
    assert plan.stages[0].questions == {"1hop": 69, "2hop": 20, "total": 89}
    assert plan.stages[1].questions == {"2hop": 20, "3hop": 9, "4hop": 2, "total": 31}


def test_the_official_shape_gives_the_reports_questions(tmp_path: Path) -> None:
    counts = {
        "2hop": 14_376,
        "3hop1": 3_737,
        "3hop2": 650,
        "4hop1": 700,
        "4hop2": 200,
        "4hop3": 275,
    }
    train = musique(tmp_path / "train", counts)
    dev = musique(tmp_path / "dev", {"2hop": 3})
    files = [f"questions.path={train}", f"questions.held_out_path={dev}", "questions.corpus=[]"]
    plan = make_plan(small_musique(*files))
    assert plan.remark == ""
    assert plan.to_json()["questions"] == REPORTED


def test_unknown_questions_leave_the_rest_of_the_plan() -> None:
    plan = make_plan(load_recipe(SMOKE, ["questions.source=jsonl", "questions.path=gone.jsonl"]))
    assert plan.questions is None
    assert "gone.jsonl (questions.path)" in plan.remark
    assert plan.stages[0].rollouts == 16
    assert json.loads(json.dumps(plan.to_json()))["questions"] is None


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train").write_text("{\n")
    dev = musique(tmp_path / "dev", {"2hop": 3})
    files = [f"questions.path={tmp_path / 'train'}", f"questions.held_out_path={dev}"]
    with pytest.raises(UserError, match="line 1: not valid JSON"):
        make_plan(small_musique(*files, "questions.corpus=[]"))


# Configurations


def test_known_configurations_are_those_of_the_models() -> None:
    def parameters(source: str) -> int:
        recipe = load_recipe(SMOKE, [f"model.source={source}"])
        return Estimator(load_config(source), "cpu").size(recipe).parameters

    assert parameters("Qwen/Qwen3-0.6B") == 596_049_920
    assert parameters("Qwen/Qwen3-8B") == 8_190_735_360
    smollm2, _ = load_model(ModelSpec(device="cpu"))
    assert parameters("smollm2-135m-instruct") == smollm2.num_parameters()
    known = load_config("smollm2-135m-instruct")
    for name in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size"):
        assert getattr(known, name) == getattr(smollm2.config, name)


def test_a_folder_is_asked_for_its_configuration_alone(tmp_path: Path) -> None:
    load_config("tiny:llama").save_pretrained(tmp_path)
    plan = make_plan(load_recipe(SMOKE, [f"model.source={tmp_path}"]))
    assert plan.size.parameters == load_model(ModelSpec(source="tiny:llama"))[0].num_parameters()


# Memory


def config(**sizes: Any) -> PretrainedConfig:
    found = load_config("tiny:qwen3")
    for name, value in {"num_hidden_layers": 3, "hidden_size": 128, **sizes}.items():
        setattr(found, name, value)
    found.layer_types = ["full_attention"] * found.num_hidden_layers
    return found


def recipe(**settings: Any) -> Recipe:
    """The smoke recipe with some of its sections replaced."""
    return Recipe.model_validate(load_recipe(SMOKE).model_dump(exclude_none=True) | settings)


def need(changed: Recipe) -> Memory:
    return Estimator(config(), "cpu").memory(changed)


def test_what_each_setting_saves() -> None:
    plain = need(recipe())
    lora = need(recipe(lora={"rank": 4}))
    assert lora.optimiser + lora.gradients < 0.5 * (plain.optimiser + plain.gradients)
    checkpointed = need(recipe(optimiser={"checkpoint_layers": True, "microbatch_tokens": 1_024}))
    assert checkpointed.activations < plain.activations
    assert need(recipe(objective={"kl": 0.1})).reference == plain.weights
    half = recipe(model={"source": "tiny:qwen3", "dtype": "bfloat16"})
    linear = Estimator(config(), "cpu").size(half).linear
    packed = 2 * linear if is_packed("cpu", torch.bfloat16) else 0
    assert linear > 0
    assert need(half).weights == plain.weights / 2 + packed
    assert need(recipe(engine={"concurrency": 8})).kv_cache == plain.kv_cache / 2
    int8 = need(recipe(optimiser={"state": "int8"}))
    assert int8.optimiser < 0.6 * plain.optimiser


@pytest.mark.parametrize("lora", [None, LoraSpec(rank=64)], ids=["full", "lora"])
@pytest.mark.parametrize("state", ["float32", "int8"])
def test_the_size_of_a_checkpoint(tmp_path: Path, state: str, lora: LoraSpec | None) -> None:
    spec = recipe(optimiser={"state": state}, lora=lora and lora.model_dump())
    model, _ = load_model(ModelSpec(source="tiny:qwen3", dtype="float32", device="cpu"))
    if lora:
        add_adapters(model, lora, seed=0)
    learner = Learner(model, spec.optimiser, spec.objective)
    assert learner.step(two_samples(64)) is not None
    path = save_checkpoint(tmp_path, 1, {"optimiser": learner.optimiser.state_dict()}, {})
    planned = Estimator(model.config, "cpu").size(spec).optimiser_bytes(spec.optimiser)
    assert (path / "tensors.pt").stat().st_size == pytest.approx(planned, rel=0.1)


def two_samples(tokens: int) -> list[Sample]:
    """Two of random tokens, so that they have nothing in common."""
    return [
        Sample(
            torch.randint(5, 300, (tokens,), generator=torch.manual_seed(number)).tolist(),
            [False] * (tokens - tokens // 2) + [True] * (tokens // 2),
            [-1.0] * tokens,
            1.0 - 2 * number,
        )
        for number in range(2)
    ]


@pytest.mark.parametrize("checkpoint_layers", [False, True], ids=["all", "checkpointed"])
@pytest.mark.parametrize("lora", [None, LoraSpec(rank=4)], ids=["full", "lora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_estimate_counts_what_the_learner_keeps(
    dtype: str, lora: LoraSpec | None, checkpoint_layers: bool
) -> None:
    """Against the learner itself with real numbers: the bytes that are alive during a step."""
    context = 512
    spec = recipe(
        optimiser={"checkpoint_layers": checkpoint_layers, "microbatch_tokens": context},
        model={"source": "tiny:qwen3", "dtype": dtype, "device": "cpu"},
        lora=lora and lora.model_dump(),
        stage=[{"name": "one", "steps": 1, "context": context}],
    )
    model, _ = load_model(spec.model)
    if lora:
        add_adapters(model, lora, seed=0)
    quicken(model)  # As an engine does.
    learner = Learner(model, spec.optimiser, spec.objective)
    samples = two_samples(context)
    learner.step(samples)  # the optimiser has its moments from here on
    known = [*model.parameters(), *model.buffers(), *learner.optimiser.state_dict()["masters"]]
    with LiveBytes(known, "cpu") as live:
        learner.step(samples)
    estimate = Estimator(model.config, "cpu").memory(spec)
    assert live.peak == pytest.approx(estimate.gradients + estimate.activations, rel=0.1)


def test_long_contexts_are_extrapolated() -> None:
    found = config(num_attention_heads=16, num_key_value_heads=2)
    shorter, longer, longest = (
        activations(found, torch.float32, length) for length in (2_048, 3_072, 6_144)
    )
    assert longer.kept - shorter.kept == pytest.approx((longest.kept - longer.kept) / 3, rel=0.01)
    assert longest.peak - longer.peak == pytest.approx(3 * (longer.peak - shorter.peak), rel=0.1)


def test_advice_stops_where_it_fits_and_where_nothing_helps() -> None:
    large = recipe(objective={"kl": 0.1}, optimiser={"microbatch_tokens": 8_192})
    wide = config(hidden_size=1_024, intermediate_size=4_096, num_hidden_layers=12)
    estimator = Estimator(wide, "cpu")
    whole = estimator.memory(large)
    assert advise(large, whole.peak, estimator.memory) == ()
    (first, *_) = few = advise(large, 0.9 * whole.peak, estimator.memory)
    assert few[-1].peak <= 0.9 * whole.peak < (whole.peak if len(few) == 1 else few[-2].peak)
    every = advise(large, 1e6, estimator.memory)
    assert every[0] == first
    assert [advice.set.partition("=")[0] for advice in every[:6]] == [
        "model.dtype", "optimiser.checkpoint_layers", "optimiser.microbatch_tokens",
        "optimiser.state", "lora.rank", "objective.kl",
    ]  # fmt: skip
    assert every[-1].peak > 1e6
    load_recipe(SMOKE, [advice.set for advice in every])
