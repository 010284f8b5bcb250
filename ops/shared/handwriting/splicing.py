"""Makes new training lines of pieces of others, cut between letters: other words in real handwriting.

After Shonenkov et al., "StackMix and Blot Augmentations for Handwritten Text Recognition", arXiv:2108.11667, 2021. Here
no corpus gives the texts: a line goes on where another one has the same letters, four if one can be found, so that
most of what is written is likely, or two, so that each pair of letters is a real one.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from handwriting.alphabet import Alphabet
from handwriting.ctc import STEP, align
from handwriting.image import WHITE

# Characters that both lines have before the cut, and lines looked at for one that has them; the fewer if the more fail.
AGREEMENTS = ((4, 40), (2, 6))
LEAST = AGREEMENTS[-1][0]
RUN = 8  # characters of a piece, on average
NEAR = 0.15  # share of its width by which a line may become wider or narrower with each piece
CENTRE = 0.5  # grey levels of a column that weigh as much as a pixel off the middle between two letters


class Letters(NamedTuple):
    """A line that can be cut.

    Attributes:
        text: What it says.
        starts: int [characters + 1], the column at which each character begins; the first is 0, the last the width.
        pixels: Called with two columns, gives uint8 [height, width] from the first to before the second, paper 255.
    """

    text: str
    starts: np.ndarray
    pixels: Callable[[int, int], np.ndarray]

    def piece(self, begin: int, end: int) -> np.ndarray:
        """Returns the pixels from one character to before another."""
        return self.pixels(int(self.starts[begin]), int(self.starts[end]))

    def continuations(self, context: str) -> Iterator[int]:
        """Yields the places of all characters that follow the context."""
        place = self.text.find(context)
        while 0 <= place < len(self.text) - len(context):
            yield place + len(context)
            place = self.text.find(context, place + 1)


def letter_starts(pixels: np.ndarray, log_probs: np.ndarray, text: str, alphabet: Alphabet) -> np.ndarray:
    """Finds where a line can be cut: between two letters at a column with little ink.

    Args:
        pixels: uint8 [height, width], paper 255.
        log_probs: float [steps, classes] of that line, log-softmax, with enough steps for the text.
        text: What it says.
        alphabet: Gives the classes.

    Returns:
        `starts` of Letters.
    """
    width = pixels.shape[1]
    spans = align(log_probs, alphabet.encode(text)) * STEP
    ink = np.convolve(WHITE - pixels.mean(axis=0), np.ones(3) / 3, "same")
    starts = [0]
    for end, begin in zip(spans[:-1, 1].tolist(), spans[1:, 0].tolist()):
        columns = np.arange(min(end, begin, width - 1), min(max(end, begin + 1), width))
        starts.append(int(columns[(ink[columns] + CENTRE * np.abs(columns - (end + begin) / 2)).argmin()]))
    return np.maximum.accumulate([*starts, width])


def spliced(line: Letters, having: Callable[[str, int], Iterable[Letters]],
            rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Begins with a line and goes on in others, each time after letters that both have.

    Args:
        line: Gives the beginning and about the width.
        having: Called with some letters and a number, looks at so many lines and gives those that have the letters.
        rng: Decides where lines are cut.

    Returns:
        Pixels uint8 [height, another width] and their text.
    """
    place, room = 0, int(line.starts[-1])
    tolerance = NEAR * room
    pieces, text = [], ""
    while (cut := max(LEAST, place + int(rng.geometric(1 / RUN)))) < len(line.text):
        pieces.append(line.piece(place, cut))
        text += line.text[place:cut]
        room -= pieces[-1].shape[1]
        line, place = _continuation(line, cut, room, tolerance, having)
    pieces.append(line.piece(place, len(line.text)))
    return np.concatenate(pieces, axis=1), text + line.text[place:]


def _continuation(line: Letters, cut: int, room: int, tolerance: float,
                  having: Callable[[str, int], Iterable[Letters]]) -> tuple[Letters, int]:
    """Returns a line and the place in it that can follow `line` up to `cut` and about fills the room, px."""
    for letters, tries in AGREEMENTS:
        context = line.text[max(0, cut - letters):cut]
        for other in having(context, tries):
            misfits = [(abs(int(other.starts[-1] - other.starts[place]) - room), place)
                       for place in other.continuations(context)]
            if misfits and min(misfits)[0] < tolerance:
                return other, min(misfits)[1]
    return line, cut
