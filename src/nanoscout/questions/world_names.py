"""Invented names: pronounceable, unique, short in tokens, and of nothing that exists."""

import random

ONSETS = (
    "b", "br", "d", "dr", "f", "g", "gr", "h", "k", "l", "m", "n", "p", "r", "s", "st", "t", "tr",
    "v", "z",
)  # fmt: skip
VOWELS = ("a", "e", "i", "o", "u")
ENDINGS = (
    "vu", "zu", "vik", "dul", "mord", "sund", "bry", "ko", "dra", "gur", "lek", "tis", "fen",
    "rast", "pol",
)  # fmt: skip
GIVEN = (
    "Ada", "Alma", "Anton", "Bela", "Boris", "Carla", "Clara", "Dora", "Edgar", "Elsa", "Emil",
    "Felix", "Flora", "Greta", "Gustav", "Hanna", "Henrik", "Ida", "Igor", "Irma", "Jonas",
    "Julia", "Karl", "Lena", "Leo", "Lotte", "Magnus", "Marta", "Max", "Mila", "Nina", "Nora",
    "Olga", "Oskar", "Otto", "Paula", "Petra", "Ralf", "Rosa", "Ruth", "Sara", "Selma", "Sofia",
    "Stefan", "Tilda", "Tomas", "Ursula", "Vera", "Viktor", "Walter", "Xenia", "Yuri",
)  # fmt: skip
PREFIXES = ("New", "Old", "Upper", "Lower", "East", "West", "North", "South", "Little", "Great")
TRIES = 10
"""Draws before a word gets one more syllable, or a look-alike is given up."""


class Names:
    """Hands out names, each once."""

    def __init__(self, rng: random.Random):
        self._rng = rng
        self._taken: set[str] = set()

    def draw(self, pattern: str) -> tuple[str, str]:
        """A new name in a pattern such as `{w} Tower`, and the invented word in it."""
        tries = 0
        while True:
            word = self._word(2 + tries // TRIES)
            if self._take(name := self._fill(pattern, word)):
                return name, word
            tries += 1

    def share(self, pattern: str, word: str) -> str | None:
        """A new name with a word that another name has too; None where all are taken."""
        names = (self._fill(pattern, word) for _ in range(TRIES))
        return next((name for name in names if self._take(name)), None)

    def prefix(self, name: str) -> str | None:
        """A new name such as `New Velmora`; None where all are taken."""
        names = (f"{prefix} {name}" for prefix in self._rng.sample(PREFIXES, len(PREFIXES)))
        return next((name for name in names if self._take(name)), None)

    def initial(self, name: str) -> str | None:
        """`A. Velmor` for `Ada Velmor`; None where it is taken."""
        short = f"{name[0]}. {name.split()[-1]}"
        return short if self._take(short) else None

    def _fill(self, pattern: str, word: str) -> str:
        return pattern.format(w=word, given=self._rng.choice(GIVEN))

    def _word(self, syllables: int) -> str:
        rng = self._rng
        start = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(syllables - 1))
        return (start + rng.choice(ENDINGS)).capitalize()

    def _take(self, name: str) -> bool:
        free = name not in self._taken
        self._taken.add(name)
        return free
