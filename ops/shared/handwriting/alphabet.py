"""Which characters a reader knows, and their ids: the one owner of text <-> class ids."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from handwriting.errors import AlphabetError

BLANK = 0  # the CTC blank; characters have the ids from 1

_LOWER = "aáàạảãăắằẳẵặâấầẩẫậbcdđeéèẹẻẽêếềệểễfghiíìịỉĩjklmnoóòọỏõôốồộổỗơớờợởỡpqrstuúùụủũưứừựửữvxyýỳỷỹỵzw"
_UPPER = "AÁÀẠẢÃĂẮẰẲẴẶÂẤẦẨẪẬBCDĐEÉÈẸẺẼÊẾỀỆỂỄFGHIÍÌỊỈĨJKLMNOÓÒỌỎÕÔỐỒỘỔỖƠỚỜỢỞỠPQRSTUÚÙỤỦŨƯỨỪỰỬỮVXYÝỲỴỶỸZW"
VIETNAMESE = _LOWER + _UPPER + "0123456789 .,-/()'#+:"
"""The 207 characters of the tutorial, in its order."""


def describe(character: str) -> str:
    """Names a character so that it can be found even where it cannot be seen: `'ß' (U+00DF)`."""
    return f"{character!r} (U+{ord(character):04X})"


@dataclass(frozen=True)
class Alphabet:
    """A bijection between characters and the class ids 1..len(characters).

    Raises:
        AlphabetError: It is empty, holds a character twice, or one that NFC would change or join to its neighbour.
    """

    characters: str

    def __post_init__(self) -> None:
        if not self.characters:
            raise AlphabetError("the alphabet is empty; give its characters, or take them from the labels")
        twice = sorted({c for c in self.characters if self.characters.count(c) > 1})
        if twice:
            raise AlphabetError(f"the alphabet holds {', '.join(map(describe, twice))} more than once; keep one")
        unfit = [c for c in self.characters if unicodedata.normalize("NFC", c) != c]
        joined = [b for a, b in pairwise(self.characters) if unicodedata.normalize("NFC", a + b) != a + b]
        if unfit or joined:
            raise AlphabetError(f"the alphabet holds {', '.join(map(describe, unfit or joined))}, which NFC does not "
                                "keep; give its composed form, or remove it")
        object.__setattr__(self, "_ids", {c: i for i, c in enumerate(self.characters, start=BLANK + 1)})

    def __len__(self) -> int:
        return len(self.characters)

    @property
    def classes(self) -> int:
        """Number of classes of the network: the characters and the blank."""
        return len(self.characters) + 1

    @classmethod
    def of_texts(cls, texts: Iterable[str]) -> "Alphabet":
        """Takes the alphabet from labels (already NFC): their characters in code point order."""
        return cls("".join(sorted(set().union(*map(set, texts)))))

    def unknown(self, text: str) -> list[str]:
        """Returns the characters of `text` outside the alphabet, each once, in order of appearance."""
        return [c for c in dict.fromkeys(text) if c not in self._ids]  # type: ignore[attr-defined]

    def encode(self, text: str) -> list[int]:
        """Returns the class ids of an NFC text.

        Raises:
            AlphabetError: A character is outside the alphabet; the message gives its code point.
        """
        unknown = self.unknown(text)
        if unknown:
            raise AlphabetError(f"outside the alphabet: {', '.join(map(describe, unknown))}; "
                                "correct the label, or train with an alphabet that holds it")
        return [self._ids[c] for c in text]  # type: ignore[attr-defined]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of class ids without blanks.

        Raises:
            AlphabetError: An id is the blank or past the last character.
        """
        wrong = [i for i in ids if not BLANK < i < self.classes]
        if wrong:
            raise AlphabetError(f"class ids {wrong[:5]} stand for no character of an alphabet of {len(self)}")
        return "".join(self.characters[i - 1] for i in ids)
