"""Exact match and F1: SQuAD's known answers, Unicode, and what must never score."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanoscout.answers import exact_match, f1, normalise

any_text = st.text(st.characters(exclude_categories=[]), max_size=60)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Eiffel Tower!", "eiffel tower"),
        ("a man, an apple and the theatre", "man apple and theatre"),
        ("G. Stanley Hall", "g stanley hall"),
        ("U.S.A.", "usa"),
        ("twenty-one", "twentyone"),
        ("1,234", "1234"),
        ("$5 + 3%", "5 3"),
        ("Zürich", "zurich"),
        ("Zu\u0308rich", "zurich"),
        ("Łódź", "łodz"),
        ("STRASSE Straße", "strasse strasse"),
        ("“Quoted” – «text»…", "quoted text"),
        ("ＦＵＬＬ　ｗｉｄｔｈ", "full width"),
        ("non\u00a0breaking\tline\n", "non breaking line"),
        ("東京、日本。", "東京日本"),
        ("हिन्दी", "हिन्दी"),
        ("the", ""),
        ("?!", ""),
        ("", ""),
    ],
)
def test_normalise(text: str, normal: str) -> None:
    assert normalise(text) == normalise(normal) == normal


def test_kana_with_and_without_voicing_stay_apart() -> None:
    assert normalise("が") != normalise("か")


@given(any_text)
def test_what_normalisation_ignores_changes_no_match(text: str) -> None:
    assert normalise(f"  The {text}. ") == normalise(text)
    assert exact_match(f"the {text}!", [text]) == bool(normalise(text))


@pytest.mark.parametrize(
    ("prediction", "golds"),
    [
        ("the city of Paris", ["City of Paris"]),
        ("Hall", ["G. Stanley Hall", "hall."]),
        ("1914-1918", ["1914–1918"]),
    ],
)
def test_exact_match(prediction: str, golds: list[str]) -> None:
    assert exact_match(prediction, golds)
    assert f1(prediction, golds) == 1.0


@pytest.mark.parametrize(
    ("prediction", "golds"),
    [
        ("Paris", []),
        ("", [""]),
        ("", ["Paris"]),
        ("the", ["The", "?!"]),
        ("...", ["!!!"]),
        ("Paris, London, Rome", ["Paris", "London"]),
        ("Paris or London", ["Paris"]),
        ("Paris\nLondon", ["Paris"]),
        ("Paris Paris", ["Paris"]),
        ("The answer is Paris", ["Paris"]),
        ("not Paris", ["Paris"]),
        ("Pari", ["Paris"]),
        ("1914", ["19140"]),
        ("Paris " * 100_000, ["Paris"]),
        ("Paris\0", ["Paris"]),
    ],
)
def test_what_never_matches(prediction: str, golds: list[str]) -> None:
    assert not exact_match(prediction, golds)


def test_f1_counts_shared_words_once_each() -> None:
    # 1 of 2 said and 1 of 3 wanted: 2 * 1/2 * 1/3 / (1/2 + 1/3)
    assert f1("Stanley Kubrick", ["G. Stanley Hall"]) == pytest.approx(0.4)
    # "new" is wanted once, said twice: precision 2/3, recall 1
    assert f1("new new york", ["New York"]) == pytest.approx(0.8)
    assert f1("york new", ["New York"]) == 1.0
    assert f1("Kubrick", ["Hall", "Stanley Kubrick"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("prediction", "golds"), [("", [""]), ("the", ["a"]), ("x", []), ("x", ["y"])]
)
def test_f1_of_nothing_in_common_is_0(prediction: str, golds: list[str]) -> None:
    assert f1(prediction, golds) == 0.0


@given(any_text, any_text)
def test_f1_is_symmetric_within_0_and_1_and_1_on_a_match(one: str, other: str) -> None:
    assert f1(one, [other]) == pytest.approx(f1(other, [one]))
    assert 0.0 <= f1(one, [other]) <= 1.0
    if exact_match(one, [other]):
        assert f1(one, [other]) == 1.0
