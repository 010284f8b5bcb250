"""A character language model of the training labels: what people write where a picture leaves a choice.

Interpolated Kneser-Ney n-grams (Chen and Goodman, "An empirical study of smoothing techniques for language modeling",
TR-10-98, Harvard 1998, section 2.7), kept as the table of log-probabilities and back-off weights that an ARPA file is.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

from handwriting.errors import DataError

EDGE = "\n"  # stands before and after each line
ORDER = 10  # longest n-grams: place names are long, and 10 predict addresses better than 8 or 6 (1.20, 1.24, 1.34 bits)
MOST = 1_000_000  # n-grams, about 100 MB in memory; a corpus that has more gets shorter ones
DISCOUNT = 0.75
REMEMBERED = 100_000  # answers, about 10 MB
FORMAT = 1


class Fusion(NamedTuple):
    """How a language model's word counts beside the network's, in beam search.

    Attributes:
        weight: Of the language model's log-probabilities; 0 leaves the network alone.
        bonus: Added for each character, since a language model prefers short texts.
    """

    weight: float = 0.5
    bonus: float = 1.0


class LanguageModel:
    """Tells how likely a character is after others.

    Args:
        grams: For each n-gram its log-probability, natural, of its last character after the others, and the back-off
            weight, as a logarithm, of what it has not seen follow.
        unknown: Log-probability of a character that no text held.
        fusion: How beam search should use the model.
    """

    def __init__(self, grams: dict[str, tuple[float, float]], unknown: float, fusion: Fusion = Fusion()):
        self.grams, self.unknown, self.fusion = grams, unknown, fusion
        self.order = max(map(len, grams), default=1)
        self._known: dict[str, float] = {}  # what was asked before: beam search asks again and again

    @classmethod
    def of_texts(cls, texts: Iterable[str], classes: int, order: int = ORDER, most: int = MOST) -> Self:
        """Learns from labels.

        Args:
            texts: NFC, one line each.
            classes: Characters that may occur, and one for the end of a line: what no text held shares their chances.
            order: Longest n-grams.
            most: n-grams, at most; the order is lowered until they fit.

        Raises:
            DataError: There is no text.
        """
        counts = _count(texts, order, most)
        if not counts[1]:
            raise DataError("there is no text to learn a language model from; label some lines for training")
        grams: dict[str, tuple[float, float]] = {}
        for length in sorted(counts):
            _add_grams(grams, _seen(counts, length), classes)
        unknown = math.log(DISCOUNT * len(counts[1]) / sum(_seen(counts, 1).values()) / classes)
        return cls(grams, unknown)

    def log_prob(self, context: str, character: str) -> float:
        """Returns the natural log-probability of a character, or EDGE, after `context`.

        Args:
            context: What stands before it in the line, from EDGE on; only the last `order - 1` characters count.
            character: One character.
        """
        gram = (context + character)[-self.order:]
        if gram not in self._known:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[gram] = self._look_up(gram)
        return self._known[gram]

    def _look_up(self, gram: str) -> float:
        total = 0.0
        while gram not in self.grams:
            context, gram = gram[:-1], gram[1:]
            if not gram:
                return total + self.unknown
            total += self.grams[context][1] if context in self.grams else 0.0
        return total + self.grams[gram][0]

    def bits(self, texts: Sequence[str]) -> float:
        """Returns the cross-entropy on some texts in bits a character, ends of lines included."""
        total = sum(self.log_prob((EDGE + text)[:place], character)
                    for text in texts for place, character in enumerate(text + EDGE, start=1))
        return -total / math.log(2) / sum(len(text) + 1 for text in texts)

    def to_json(self) -> bytes:
        """Returns the model as JSON; the same texts give the same bytes."""
        grams = {gram: [round(number, 4) for number in numbers] for gram, numbers in sorted(self.grams.items())}
        return json.dumps({"format": FORMAT, "unknown": round(self.unknown, 4), "fusion": self.fusion._asdict(),
                           "grams": grams}, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes, name: str) -> Self:
        """Loads what `to_json` wrote; `name` tells a reader of an error which file it was.

        Raises:
            DataError: It is damaged, or of another version of this project.
        """
        try:
            found = json.loads(data)
            if found["format"] != FORMAT:
                raise ValueError(f"format {found['format']}")
            grams = {gram: (float(log_prob), float(back_off)) for gram, (log_prob, back_off) in found["grams"].items()}
            return cls(grams, float(found["unknown"]), Fusion(**found["fusion"]))
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(f"{name} is not a language model of this version ({error}); train again") from error


Counts = dict[int, Counter[str]]


def _count(texts: Iterable[str], order: int, most: int) -> Counts:
    """Counts n-grams of each length up to `order`, or up to what `most` n-grams leave room for."""
    counts: Counts = {length: Counter() for length in range(1, order + 1)}
    for text in texts:
        line = EDGE + text + EDGE
        for end in range(2, len(line) + 1):  # the first EDGE is given, never predicted
            for length in range(1, min(len(counts), end) + 1):
                counts[length][line[end - length:end]] += 1
        while len(counts) > 1 and sum(map(len, counts.values())) > most:
            del counts[len(counts)]
    return counts


def _seen(counts: Counts, length: int) -> Counter[str]:
    """Returns how often n-grams count: the longest, and those at the start of a line, by themselves; others by how many
    different characters stand before them, since a text that follows one name alone says little about others."""
    if length == len(counts):
        return counts[length]
    before = Counter(gram[1:] for gram in counts[length + 1])
    return Counter({gram: before[gram] or number for gram, number in counts[length].items()})


def _add_grams(grams: dict[str, tuple[float, float]], seen: Counter[str], classes: int) -> None:
    """Adds the n-grams of one length, all shorter ones being there, and completes their contexts' back-off weights."""
    total: dict[str, int] = defaultdict(int)
    kinds: dict[str, int] = defaultdict(int)
    for gram, number in seen.items():
        total[gram[:-1]] += number
        kinds[gram[:-1]] += 1
    back_off = {context: DISCOUNT * kinds[context] / total[context] for context in total}
    for gram, number in seen.items():
        context, shorter = gram[:-1], gram[1:]
        lower = math.exp(grams[shorter][0]) if shorter else 1 / classes
        probability = max(number - DISCOUNT, 0) / total[context] + back_off[context] * lower
        grams[gram] = (math.log(probability), 0.0)
    for context, share in back_off.items():
        if context:
            grams[context] = (grams.get(context, (0.0, 0.0))[0], math.log(share))
