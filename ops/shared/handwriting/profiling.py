"""Writes a bundle's profile: the figures of its dataset, and of its own readings as it will serve them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from handwriting.alphabet import Alphabet
from handwriting.beam_search import decode_beam
from handwriting.ctc import Reading, decode_greedy
from handwriting.dataset import OUTSIDE, REJECTS, Dataset
from handwriting.language_model import LanguageModel
from handwriting.profile import BEAM, CONFIDENCES, GREEDY, WIDTHS, counted
from handwriting.reader import log_probs_of
from handwriting.store import open_store, read_json

PROFILED_LINES = 500  # validation lines to read; they tell a share of a tenth to about 0.03


def profile_of(dataset: Dataset, onnx: Path, language_model: LanguageModel) -> dict[str, Any]:
    """Returns the content of `profile.json`: the fields of Profile, with the confidences of both ways to read.

    Args:
        dataset: What the model learned from.
        onnx: The network as it will serve, in 8 bits or not.
        language_model: Of the bundle.
    """
    pairs = _readings(dataset, onnx, language_model)
    confidences = {way: counted((reading.confidence for reading in readings), CONFIDENCES)
                   for way, readings in zip((GREEDY, BEAM), zip(*pairs))}
    unknown = _left_out(dataset)
    return {"widths": counted((line.width for line in dataset.lines("train")), WIDTHS), "confidences": confidences,
            "labels": len(dataset.all_lines) + unknown, "unknown": unknown}


def _readings(dataset: Dataset, onnx: Path, language_model: LanguageModel) -> Sequence[tuple[Reading, Reading]]:
    """Reads validation lines, in order of their digests and so a random part, in both ways."""
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    alphabet = Alphabet(dataset.manifest.alphabet)
    every = (log_probs_of(session, dataset.pixels(line)) for line in dataset.lines("validation")[:PROFILED_LINES])
    return [(decode_greedy(one, alphabet), decode_beam(one, alphabet, language_model)) for one in every]


def _left_out(dataset: Dataset) -> int:
    """Returns how many labelled lines had characters outside the alphabet."""
    return sum(reject["reason"] == OUTSIDE for reject in read_json(open_store(dataset.uri), REJECTS))
