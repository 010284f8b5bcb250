"""How well readings match the truth, over a whole corpus."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher

from rapidfuzz.distance import Levenshtein

from handwriting.errors import DataError

PASSAGE = 5  # characters
ELSEWHERE = 0.15  # edits a character beside the passage, at most


@dataclass(frozen=True)
class Scores:
    """Corpus scores with the counts behind them.

    Attributes:
        cer: Character error rate: edits / characters of the truth; 0 is perfect, above 1 is possible.
        wer: Word error rate: the same over words between blanks.
        exact: Share of lines read without any error, 0 to 1 (the tutorial's field accuracy).
        char_accuracy: The tutorial's character accuracy by difflib, 0 to 1.
        lines: Number of lines.
        characters: Characters of the truth.
        edits: Insertions, deletions and substitutions of characters.
    """

    cer: float
    wer: float
    exact: float
    char_accuracy: float
    lines: int
    characters: int
    edits: int

    def as_dict(self) -> dict[str, float]:
        """Returns the fields by name, rounded for people."""
        return {name: round(value, 6) for name, value in asdict(self).items()}


def score(truths: Sequence[str], readings: Sequence[str]) -> Scores:
    """Scores readings against truths, both NFC, line by line.

    Raises:
        DataError: There is no line, or not one reading a truth.
    """
    if not truths or len(truths) != len(readings):
        raise DataError(f"cannot score {len(readings)} readings against {len(truths)} truths; give one of each a line")
    edits = sum(map(Levenshtein.distance, truths, readings))
    word_edits = sum(Levenshtein.distance(t.split(), r.split()) for t, r in zip(truths, readings))
    characters = sum(map(len, truths))
    return Scores(
        cer=edits / max(characters, 1),
        wer=word_edits / max(sum(len(t.split()) for t in truths), 1),
        exact=sum(t == r for t, r in zip(truths, readings)) / len(truths),
        char_accuracy=sum(map(char_accuracy, truths, readings)) / len(truths),
        lines=len(truths), characters=characters, edits=edits)


def char_accuracy(truth: str, reading: str) -> float:
    """The tutorial's measure of one line: the harmonic mean of matched/len(truth) and matched/len(reading).

    `matched` counts the characters in difflib's matching blocks; two empty texts agree fully.
    """
    if not truth and not reading:
        return 1.0
    blocks = SequenceMatcher(None, truth, reading, autojunk=False).get_matching_blocks()
    # 2 m / (a + b) is the harmonic mean of m / a and m / b
    return 2 * sum(block.size for block in blocks) / (len(truth) + len(reading))


def lacks_a_passage(truth: str, reading: str) -> bool:
    """Says whether one of two texts lacks PASSAGE or more characters in a row of the other, and else they agree.

    So it is where people shorten what they are told to write; a line that is hard to read differs all over.
    """
    gap = max((abs((op.src_end - op.src_start) - (op.dest_end - op.dest_start))
               for op in Levenshtein.opcodes(truth, reading)), default=0)
    return gap >= PASSAGE and Levenshtein.distance(truth, reading) - gap <= ELSEWHERE * len(truth)


def confusions(truths: Sequence[str], readings: Sequence[str], most: int = 20) -> list[tuple[str, str, int]]:
    """Counts what was read for what, commonest first: (truth, reading, times); "" stands for nothing."""
    counts: Counter[tuple[str, str]] = Counter()
    for truth, reading in zip(truths, readings):
        for op in Levenshtein.editops(truth, reading):
            expected = "" if op.tag == "insert" else truth[op.src_pos]
            counts[expected, "" if op.tag == "delete" else reading[op.dest_pos]] += 1
    return [(truth, reading, times) for (truth, reading), times in counts.most_common(most)]
