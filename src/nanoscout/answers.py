"""Verifiable correctness of short answers: normalise, exact match, token F1 (as in SQuAD, MuSiQue)."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation + "“”‘’«»–—…·")


def normalise(text: str) -> str:
    """Lower case, no accents, punctuation or articles, single spaces.

    SQuAD's normalisation after Unicode's: full-width and composed forms count as their plain ones
    (NFKD, marks dropped), so that `Zürich` and `Zurich` are one answer.
    """
    decomposed = unicodedata.normalize("NFKD", text)
    plain = "".join(c for c in decomposed if not unicodedata.combining(c)).casefold()
    return " ".join(_ARTICLES.sub(" ", plain.translate(_PUNCTUATION)).split())


def exact_match(prediction: str, golds: Sequence[str]) -> bool:
    """Whether the normalised prediction equals a normalised gold answer or alias.

    A gold that normalises to nothing never matches; a list of candidates equals none of them.
    """
    wanted = {normalise(gold) for gold in golds} - {""}
    return normalise(prediction) in wanted


def f1(prediction: str, golds: Sequence[str]) -> float:
    """The best token F1 against any gold, in [0, 1]; empty golds score 0."""
    return max((_f1(normalise(prediction), normalise(gold)) for gold in golds), default=0.0)


def _f1(prediction: str, gold: str) -> float:
    said, wanted = Counter(prediction.split()), Counter(gold.split())
    common = (said & wanted).total()
    if not common:
        return 0.0
    precision, recall = common / said.total(), common / wanted.total()
    return 2 * precision * recall / (precision + recall)
