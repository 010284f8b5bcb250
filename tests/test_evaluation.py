"""A bundle is scored as the predictor would read, also when it is of another height or squeeze than the dataset."""

import shutil

import numpy as np
import pytest

from handwriting.bundle import CONFIG
from handwriting.errors import DataError
from handwriting.evaluation import evaluate
from handwriting.image import ImageConfig
from handwriting.labels import LabelConfig
from handwriting.packing import PackConfig, pack_folder
from handwriting.reader import Reader
from handwriting.store import open_store, read_json, write_json


@pytest.fixture
def changed(tiny_bundle, tmp_path):
    """Makes a copy of a bundle with another image function: `changed(height=32)`."""
    def change(**image):
        folder = open_store(str(shutil.copytree(tiny_bundle, tmp_path / "bundle")))
        config = read_json(folder, CONFIG)
        write_json(folder, CONFIG, config | {"image": config["image"] | image})
        return folder.root
    return change


@pytest.mark.parametrize("image, margins", [(ImageConfig(height=32), 0), (ImageConfig(height=96), 0),
                                            (ImageConfig(squeeze=0.75), 4)])  # a margin is as wide in squeezed lines
def test_a_champion_of_another_size_reads_lines_in_its_own(tiny_bundle, sample_folder, small_dataset, tmp_path,
                                                           monkeypatch, image, margins):
    other = pack_folder(str(sample_folder), str(tmp_path), PackConfig(image=image), LabelConfig())
    shapes, read = [], Reader.read_pixels
    monkeypatch.setattr(Reader, "read_pixels", lambda self, line: (shapes.append(line.shape), read(self, line))[1])
    own = evaluate(str(tiny_bundle), small_dataset)
    own_shapes = shapes.copy()
    shapes.clear()
    found = evaluate(str(tiny_bundle), other.uri)
    assert {height for height, _ in shapes} == {64} and found.scores.lines == own.scores.lines
    np.testing.assert_allclose([width for _, width in shapes], [width for _, width in own_shapes], atol=2 + margins)
    assert found.scores.cer == pytest.approx(own.scores.cer, abs=0.05)


def test_what_the_predictor_would_refuse_is_read_as_nothing(changed, small_dataset):
    assert evaluate(changed(max_width=64), small_dataset).scores.cer == 1


def test_lines_of_another_image_function_are_refused(changed, small_dataset):
    with pytest.raises(DataError, match="image function 1, .* lines of 3"):
        evaluate(changed(version=1), small_dataset)


def test_a_champion_from_before_lines_were_trimmed_is_compared_with(changed, tiny_bundle, small_dataset):
    assert evaluate(changed(version=2), small_dataset).scores == evaluate(str(tiny_bundle), small_dataset).scores
