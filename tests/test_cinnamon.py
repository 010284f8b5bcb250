"""The tutorial's own data: every line must get through."""

import numpy as np
import pytest
from conftest import SHARED

from handwriting.dataset import Dataset
from handwriting.image import read_line
from handwriting.labels import LabelConfig
from handwriting.packing import PackConfig, pack_folder

CINNAMON = SHARED / "data" / "cinnamon"

pytestmark = pytest.mark.skipif(not CINNAMON.is_dir(), reason=f"the Cinnamon data is not at {CINNAMON}")


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="module")
def packed(datasets):
    return pack_folder(str(CINNAMON), str(datasets), PackConfig(), LabelConfig())


def test_all_2113_lines_are_packed_and_none_is_rejected(packed):
    assert packed.splits == {"train": 1474, "validation": 364, "test": 275}
    assert packed.rejects == [] and packed.read == 2113


def test_packing_again_reads_nothing(packed, datasets):
    again = pack_folder(str(CINNAMON), str(datasets), PackConfig(), LabelConfig())
    assert (again.uri, again.read, again.new) == (packed.uri, 0, False)


def test_lines_are_those_of_their_pictures(packed, tmp_path):
    dataset = Dataset(packed.uri, tmp_path)
    for line in dataset.all_lines[::150]:
        picture = (CINNAMON / line.key).read_bytes()
        expected = read_line(picture, dataset.manifest.image)
        np.testing.assert_array_equal(dataset.pixels(line), expected, err_msg=line.key)
