"""Reads pictures with a bundle: ONNX Runtime, no PyTorch. Serving, evaluation and the command line all read with it."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from handwriting.alphabet import Alphabet
from handwriting.beam_search import decode_beam
from handwriting.bundle import LANGUAGE_MODEL, ONNX, BundleConfig, fetch_bundle, read_config
from handwriting.ctc import Reading, decode_greedy, steps
from handwriting.errors import DataError
from handwriting.image import PADDED, read_line, to_input
from handwriting.language_model import LanguageModel
from handwriting.profile import Profile, read_profile
from handwriting.store import open_store

log = logging.getLogger(__name__)


class Reader:
    """A loaded bundle; one may be used from several threads.

    Attributes:
        version: The bundle's version.
        language_model: With it lines are read by beam search, without it greedily.
        profile: What the model learned from, and how sure it is when it reads so; None for old bundles.
    """

    def __init__(self, session: onnxruntime.InferenceSession, config: BundleConfig,
                 language_model: LanguageModel | None = None, profile: Profile | None = None):
        self.session, self.config, self.language_model, self.profile = session, config, language_model, profile
        self.version = config.version
        self.alphabet = Alphabet(config.alphabet)

    @classmethod
    def load(cls, folder: Path, threads: int = 0, language_model: bool = False) -> "Reader":
        """Loads the bundle in a local folder.

        Args:
            folder: Has config.json, model.onnx and language_model.json.
            threads: Of one reading; 0 lets ONNX Runtime take all cores.
            language_model: Let the bundle's language model help with reading.

        Raises:
            DataError: A file is missing or damaged.
        """
        store = open_store(str(folder))
        config = read_config(store)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            session = onnxruntime.InferenceSession(folder / ONNX, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own exceptions share no base but Exception
            raise DataError(f"{folder / ONNX} cannot be loaded ({error}); fetch the bundle again") from error
        model = _language_model(folder) if language_model else None
        return cls(session, config, model, read_profile(store, bool(model)))

    @classmethod
    def fetch(cls, uri: str, threads: int = 0, language_model: bool = False) -> "Reader":
        """Loads the bundle at a URI, or the one that serves or came last where it is the root of models.

        Args:
            uri: `s3://` URI or local folder.
            threads: Of one reading; 0 lets ONNX Runtime take all cores.
            language_model: Let the bundle's language model help with reading.

        Raises:
            MissingError: There is no bundle.
            DataError: A file is missing or damaged.
        """
        with tempfile.TemporaryDirectory(prefix="bundle-") as scratch:  # loaded, it lives in memory
            return cls.load(fetch_bundle(uri, Path(scratch)), threads, language_model)

    def read(self, pictures: Sequence[bytes]) -> list[Reading]:
        """Reads pictures of one line each.

        Raises:
            ImageError: A picture cannot be used.
        """
        return [self.read_pixels(read_line(picture, self.config.image)) for picture in pictures]

    def read_pixels(self, line: np.ndarray) -> Reading:
        """Reads one line, uint8 [height, width] as `image.read_line` gives it."""
        log_probs = log_probs_of(self.session, line)
        reading = (decode_beam(log_probs, self.alphabet, self.language_model) if self.language_model
                   else decode_greedy(log_probs, self.alphabet))
        return reading._replace(width=line.shape[1])


def log_probs_of(session: onnxruntime.InferenceSession, line: np.ndarray) -> np.ndarray:
    """Runs the network on one line, uint8 [height, width]; returns float32 [steps, classes]."""
    return session.run(None, network_input(line))[0][0][:max(1, steps(line.shape[1]))]


def network_input(line: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what the network takes for one line, uint8 [height, width]: `images`, float32 [1, 1, height, more].

    Without the paper that lines end with in training, one in twenty errors comes on top.
    """
    padding = -line.shape[1] % PADDED
    return {"images": np.pad(to_input(line), ((0, 0), (0, padding)))[None, None]}


def _language_model(folder: Path) -> LanguageModel | None:
    """Loads a bundle's language model; a champion that was trained before there were any goes on reading without."""
    path = folder / LANGUAGE_MODEL
    if not path.exists():
        log.warning("%s is not there: reading without a language model", path)
        return None
    return LanguageModel.from_json(path.read_bytes(), str(path))
