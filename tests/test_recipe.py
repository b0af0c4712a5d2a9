"""Recipes: what is wrong is said in one line, and a dumped recipe loads back."""

from pathlib import Path

import pytest

from nanoscout.errors import UserError
from nanoscout.recipe import Recipe
from nanoscout.recipe_file import dump_recipe, load_recipe

ROOT = Path(__file__).parent.parent
MINIMAL = 'name = "x"\n[[stage]]\nname = "a"\nsteps = 3\n'


def load(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return load_recipe(path, list(overrides))


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda p: p.stem)
def test_shipped_recipes_load_and_survive_a_round_trip(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert load(tmp_path, dump_recipe(recipe)) == recipe


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINIMAL + "lenght = 3\n", "'stage.0.lenght'"),
        (MINIMAL + "[questions.world]\npags = 3\n", "did you mean 'pages'"),
        ("modle = 1\n" + MINIMAL, "did you mean 'model'"),
        (MINIMAL.replace("3", '"three"'), "stage.0.steps"),
        (MINIMAL.replace("3", "0"), "stage.0.steps"),
        (MINIMAL + "hops = { 5hop = 1.0 }\n", "stage.0.hops"),
        (MINIMAL + "hops = { 1hop = inf }\n", "stage.0.hops"),
        (MINIMAL + '[[stage]]\nname = "a"\nsteps = 1\n', "stage names must differ"),
        (MINIMAL + "[dialogue]\nexamples = [{}]\n", "either hop_type or question"),
        (MINIMAL + "rewards = { correctness = nan }\n", "stage.0.rewards.correctness"),
        (MINIMAL + "[optimiser]\nlr = inf\n", "optimiser.lr"),
        (MINIMAL + "[model]\nsource = 3\n", "model.source"),
        (
            MINIMAL + "rewards = { judge = 1.0 }\n",
            "stage 'a' has the reward judge, but there is no",
        ),
        (MINIMAL + '[judge]\nurl = "http://x"\n', "judge.model"),
        ('name = "x"\nstage = []\n', "stage"),
        ('name = "x"\nstage = 3\n', "stage"),
        ("", "name: Field required"),
        ("name = [\n", "not valid TOML"),
        ("name = 1\nname = 2\n", "not valid TOML"),
        ("name = " + "[" * 20_000, "nested too deeply"),
    ],
)
def test_faults_are_told_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert said in message
    assert "recipe.toml" in message
    assert "\n" not in message


def test_overrides_reach_nested_and_listed_values(tmp_path: Path) -> None:
    recipe = load(
        tmp_path, MINIMAL, "seed=7", "stage.0.steps=9", "model.source=./here", "search.results=3"
    )
    assert (recipe.seed, recipe.stage[0].steps, recipe.search.results) == (7, 9, 3)
    assert recipe.model.source == "./here"
    table = load(
        tmp_path,
        MINIMAL,
        "optimiser.betas=[0.8, 0.9]",
        "stage.0.hops={2hop = 3}",
        'dialogue.examples=[{question = "a=b?", answer = "yes"}]',
        "evaluation.sampled.top_p=1",
    )
    assert table.optimiser.betas == (0.8, 0.9)
    assert table.stage[0].hops == {"2hop": 3.0}
    assert table.dialogue.examples[0].question == "a=b?"
    assert table.evaluation.sampled is not None
    assert table.evaluation.sampled.top_p == 1.0
    assert load(tmp_path, dump_recipe(table)) == table


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed", "key=value"),
        ("=3", "key=value"),
        ("stage.4.steps=9", "there is no '4'"),
        ("stage.-1.steps=9", "there is no '-1'"),
        ("stage.²=9", "there is no '²'"),
        ("name.x=9", "there is no 'x'"),
        ("stage.0.stps=9", "unknown key 'stage.0.stps'; did you mean 'steps'"),
        ("search.result=9", "unknown key 'search.result'; did you mean 'results'"),
        ("search.results=many", "search.results"),
        ("search.results=" + "[" * 20_000, "search.results"),
    ],
)
def test_faulty_overrides_are_told_in_one_line(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, MINIMAL, override)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_not_a_readable_text_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    with pytest.raises(UserError, match=r"recipe\.toml: no such recipe"):
        load_recipe(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        load_recipe(path)
    with pytest.raises(UserError, match="cannot be read"):
        load_recipe(tmp_path)
