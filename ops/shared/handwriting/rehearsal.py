"""Rendered lines to train on before real ones: what many fonts have in common, handwriting has too.

The texts are passages of the real labels, and the fonts those of the installed packages `fontpkg-*`.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from handwriting.alphabet import Alphabet
from handwriting.dataset import Manifest
from handwriting.fonts import installed_families
from handwriting.hyperparameters import TrainConfig
from handwriting.labels import LabelConfig
from handwriting.packing import PackConfig, pack_folder
from handwriting.rendered_lines import render_lines

LINES = 9000
SCHEDULE = TrainConfig(epochs=8)  # the same for all: so one rehearsal serves every training of an alphabet


@contextmanager
def rendered_dataset(texts: Sequence[str], manifest: Manifest) -> Iterator[str]:
    """Renders lines of the alphabet and height of a dataset, for the time of a block.

    Args:
        texts: What to write passages of.
        manifest: Of the dataset.

    Yields:
        URI of a local dataset.

    Raises:
        ConfigError: No font is installed, or none has the texts' letters.
    """
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as scratch:
        folder = Path(scratch)
        render_lines(folder / "lines", texts, installed_families(), Alphabet(manifest.alphabet), lines=LINES)
        # However many are too narrow for their texts: letters of fonts may be narrower than those that were squeezed.
        config = PackConfig(manifest.image, manifest.alphabet, max_rejects=1.0)
        yield pack_folder(os.fspath(folder / "lines"), os.fspath(folder / "datasets"), config, LabelConfig()).uri
