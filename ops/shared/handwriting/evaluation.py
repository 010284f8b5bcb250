"""Scores bundles on a dataset, and finds the one to beat."""

import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein
from tqdm import tqdm

from handwriting.bundle import check_image
from handwriting.dataset import Dataset, Line
from handwriting.errors import ImageError
from handwriting.image import scale
from handwriting.metrics import Scores, confusions, score
from handwriting.reader import Reader
from handwriting.report import evaluation_page

log = logging.getLogger(__name__)

WORST = 25  # lines shown as pictures


class Evaluation(NamedTuple):
    """How a bundle read a split: its scores and an HTML page of what it got wrong."""

    model: str
    scores: Scores
    report: str


def evaluate(model_uri: str, dataset_uri: str, split: str = "test", language_model: bool = False) -> Evaluation:
    """Reads every line of a split as the predictor would, and scores the readings.

    Args:
        model_uri: The bundle, or the root of bundles.
        dataset_uri: The dataset, or the root of datasets.
        split: "train", "validation" or "test".
        language_model: Let the bundle's language model help with reading.

    Raises:
        MissingError: There is no such bundle or dataset.
        DataError: The split is empty, or another image function made the lines that the bundle learned from.
    """
    with TemporaryDirectory(prefix="evaluate-") as scratch:
        dataset = Dataset(dataset_uri, Path(scratch))
        reader = Reader.fetch(model_uri, language_model=language_model)
        check_image(model_uri, reader.config.image, dataset.manifest.image)
        lines = dataset.lines(split)
        readings = [_read(reader, dataset.pixels(line), dataset.manifest.image.squeeze)
                    for line in tqdm(lines, desc=f"reading {split}", unit="", disable=None)]
        scores = score([line.text for line in lines], readings)
        log.info("%s on %d lines of %s: CER %.4f, exact %.3f", reader.version, scores.lines, split, scores.cer,
                 scores.exact)
        return Evaluation(model_uri, scores, _report(dataset, lines, readings, scores, model_uri))


def _read(reader: Reader, pixels: np.ndarray, squeezed: float) -> str:
    """Reads a line of a dataset; a champion of another height or squeeze gets it in its own, or none could be tried.

    What is too wide for the bundle is read as nothing, since the predictor would refuse it.
    """
    try:
        return reader.read_pixels(scale(pixels, reader.config.image, squeezed)).text
    except ImageError:
        return ""


def _report(dataset: Dataset, lines: Sequence[Line], readings: Sequence[str], scores: Scores, model: str) -> str:
    ranked = sorted(zip(lines, readings), reverse=True,
                    key=lambda pair: Levenshtein.normalized_distance(pair[0].text, pair[1]))
    worst = [(dataset.pixels(line), line.key, line.text, reading) for line, reading in ranked[:WORST]
             if line.text != reading]
    return evaluation_page({"model": model, "dataset": dataset.uri, **scores.as_dict()}, worst,
                           confusions([line.text for line in lines], readings))
