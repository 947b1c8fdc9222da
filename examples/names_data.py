"""The names of examples.names: Arabic letters, a country, and the Latin spellings met there; and how far others are."""

from __future__ import annotations

import sqlite3
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from examples.packages import package_files

PACKAGE = "arabic-name-romanizer==0.2.0"
DATABASE = "arabic_name_romanizer/resources/names.sqlite3"
PERSIAN = {"AF", "IR", "PK"}  # countries whose names are not Arabic, though the letters are
ARABIC = "ءؤئابتثجحخدذرزسشصضطظعغفقكلمنهويپچڤگ "
LATIN = "abcdefghijklmnopqrstuvwxyz "
APOSTROPHES = "'`\u2018\u2019\u02be\u02bf"
BOUNDARY = 0  # the token in front of a written name and behind it
LONGEST = 26  # tokens of a written name, the boundary behind it among them


@dataclass(frozen=True)
class Name:
    """A name of one country: its Arabic letters, and how it is spelled there."""

    arabic: str
    country: str
    spellings: tuple[str, ...]

    @property
    def symbols(self) -> list[str]:
        """What the encoder reads."""
        return [self.country, *self.arabic]


@dataclass(frozen=True)
class Score:
    """How far written names are from what they should be, and what that took."""

    method: str
    character_errors: float  # edits from the nearest spelling of that country, of its letters
    exact: float  # names written in one of the country's spellings
    exact_anywhere: float  # names written in a spelling of some country
    names_per_second: float
    learning_seconds: float


def latin_letters(text: str) -> str:
    """Lower case, without accents and apostrophes; a hyphen is a space.

    >>> latin_letters("Aït-Ma'mar")
    'ait mamar'
    """
    bare = (
        x for x in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(x) and x not in APOSTROPHES
    )
    return " ".join("".join(bare).replace("-", " ").split())


def read_names() -> list[Name]:
    """The names of the dictionary that are written in these alphabets."""
    path = package_files(PACKAGE) / DATABASE
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as database:
        rows = database.execute("SELECT arabic_key, country, latin FROM units ORDER BY rowid").fetchall()
    spellings: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for arabic, country, latin in rows:
        letters = latin_letters(latin)
        fits = set(arabic) <= set(ARABIC) and set(letters) <= set(LATIN) and 0 < len(letters) < LONGEST
        if fits and country and country not in PERSIAN:
            spellings[arabic, country][letters] = None
    return [Name(*key, tuple(found)) for key, found in spellings.items()]


def split(names: Sequence[Name]) -> tuple[list[Name], list[Name]]:
    """Names for learning, and those held out: no Arabic name is in both, of whatever country."""
    fold = [zlib.crc32(name.arabic.encode()) % 10 for name in names]
    return [x for x, k in zip(names, fold, strict=True) if k], [x for x, k in zip(names, fold, strict=True) if not k]


def symbols_of(names: Sequence[Name]) -> list[str]:
    """The encoder's vocabulary; 0 is padding."""
    return ["", *sorted({name.country for name in names}), *ARABIC]


def written_tokens(latin: str) -> list[int]:
    """What the decoder is given: the boundary, then the letters."""
    return [BOUNDARY, *(LATIN.index(letter) + 1 for letter in latin)]


def edits(a: str, b: str) -> int:
    """Insertions, deletions and substitutions from one to the other (Levenshtein 1966).

    >>> edits("djamel", "jamal")
    2
    """
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def score(
    method: str,
    names: Sequence[Name],
    written: Sequence[str],
    anywhere: set[tuple[str, str]],
    *,
    writing_seconds: float,
    learning_seconds: float,
) -> Score:
    wrong = letters = exact = somewhere = 0
    for name, text in zip(names, written, strict=True):
        distance, length = min((edits(text, x), len(x)) for x in name.spellings)
        wrong, letters, exact = wrong + distance, letters + length, exact + (distance == 0)
        somewhere += (name.arabic, text) in anywhere
    n = len(names)
    return Score(method, wrong / letters, exact / n, somewhere / n, n / writing_seconds, learning_seconds)
