import json
import unicodedata

import numpy as np
import pytest
from PIL import Image

from handwriting.alphabet import VIETNAMESE
from handwriting.errors import ConfigError
from handwriting.image import ImageConfig, read_line
from pipeline.places import HAMLETS, PLACES, STREETS
from pipeline.samples import FONTS, LEAST_LINES, LONGEST, SHORTEST, draw, make_samples, make_texts, sample_families

SPLITS = ["test", "train", "user_data", "validation"]
NO_CHARACTER = "\ufdd0"  # fonts draw it as the box that stands for a missing glyph
DRAWN_ALIKE = "ẪẴ"  # Dancing Script 2.1 has one shape for both


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    out = tmp_path_factory.mktemp("bucket")
    make_samples(out, lines=40, seed=3)
    return out


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def labels(bucket, split):
    return json.loads((bucket / split / "labels.json").read_text(encoding="utf-8"))


def test_same_seed_gives_the_same_bytes(bucket, tmp_path):
    make_samples(tmp_path, lines=40, seed=3)
    assert content(tmp_path) == content(bucket)


def test_another_seed_gives_other_texts_and_pictures(bucket, tmp_path):
    make_samples(tmp_path, lines=40, seed=4)
    ours, theirs = content(tmp_path), content(bucket)
    assert ours.keys() == theirs.keys()
    assert not any(ours[key] == theirs[key] for key in ours)


def test_splits_share_the_lines_as_promised(tmp_path):
    assert make_samples(tmp_path, lines=50, seed=1) == {"train": 40, "validation": 4, "test": 4, "user_data": 2}
    assert {split: len(labels(tmp_path, split)) for split in SPLITS} == {
        "train": 40, "validation": 4, "test": 4, "user_data": 2}


def test_fewest_lines_fill_every_split_and_fewer_are_refused(tmp_path):
    assert min(make_samples(tmp_path, lines=LEAST_LINES).values()) == 1
    with pytest.raises(ConfigError, match=f"ask for {LEAST_LINES} or more"):
        make_samples(tmp_path, lines=LEAST_LINES - 1)


def test_labels_name_exactly_the_pictures_that_lie_there(bucket):
    assert sorted(path.name for path in bucket.iterdir()) == SPLITS
    for split in SPLITS:
        names = sorted(path.name for path in (bucket / split / "images").iterdir())
        assert names == sorted(labels(bucket, split)) == [f"{i:04}.png" for i in range(1, len(names) + 1)]


def test_labels_are_written_as_readable_utf8(bucket):
    raw = (bucket / "train" / "labels.json").read_text(encoding="utf-8")
    assert "\\u" not in raw and raw.startswith('{\n "0001.png": "')


def test_no_text_occurs_twice_in_any_splits(bucket):
    texts = [text for split in SPLITS for text in labels(bucket, split).values()]
    assert len(texts) == 40 == len(set(texts))


def test_texts_are_nfc_in_the_alphabet_and_of_the_promised_length():
    texts = make_texts(np.random.default_rng(0), 1000)
    for text in texts:
        assert unicodedata.is_normalized("NFC", text) and set(text) <= set(VIETNAMESE), text
        assert SHORTEST <= len(text) <= LONGEST and text == " ".join(text.split()), text
    assert 18 <= np.mean([len(text) for text in texts]) <= 22


def test_every_place_name_is_nfc_in_the_alphabet_and_listed_once():
    for names in (STREETS, HAMLETS, PLACES):
        assert len(set(names)) == len(names)
    for name in (*STREETS, *HAMLETS, *(part for place in PLACES for part in place)):
        assert unicodedata.is_normalized("NFC", name) and set(name) <= set(VIETNAMESE) - set(DRAWN_ALIKE), name


def test_shares_of_the_fonts_add_up():
    assert sum(font.share for font in FONTS) == pytest.approx(1)


@pytest.mark.parametrize("family", sample_families(), ids=lambda family: family.name)
def test_every_font_draws_every_character_and_no_two_in_use_alike(family):
    def shape(character):
        mask = font.getmask(character)
        return mask.size, bytes(mask), font.getbbox(character)

    assert not family.lacks(VIETNAMESE)
    font = family.faces[0].font
    shapes = {character: shape(character) for character in VIETNAMESE if character != " "}
    assert [c for c in shapes if shapes[c] == shape(NO_CHARACTER) or not any(shapes[c][1])] == []
    alike = {c for c in shapes if list(shapes.values()).count(shapes[c]) > 1}
    assert alike <= set(DRAWN_ALIKE)  # a font that lost an accent would make two letters alike


def test_pictures_are_light_paper_with_dark_ink_of_line_height(bucket):
    for path in bucket.rglob("*.png"):
        with Image.open(path) as picture:
            assert 70 <= picture.height <= 110 and picture.mode in ("L", "RGB")
            assert 150 < picture.width * 64 / picture.height < 1000
            grey = np.asarray(picture.convert("L"))
        paper = np.median(grey)
        assert paper > 200 and 0.02 < np.mean(grey < paper - 50) < 0.4, path


def test_no_ink_touches_the_rim_so_accents_are_whole(bucket):
    for path in bucket.rglob("*.png"):
        with Image.open(path) as picture:
            grey = np.asarray(picture.convert("L"))
        rim = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
        assert rim.min() > np.median(grey) - 35, path  # shade and noise stay below it, ink does not


def test_pipeline_reads_the_pictures(bucket):
    line = read_line((bucket / "train" / "images" / "0001.png").read_bytes(), ImageConfig())
    assert line.shape[0] == ImageConfig().height and line.min() == 0 and line.max() == 255


def test_a_line_is_drawn_from_its_own_stream_of_chance():
    first, again, other = (draw("12/3 Lê Lợi, Quận 1", np.random.default_rng([7, n])) for n in (1, 1, 2))
    assert first.tobytes() == again.tobytes() != other.tobytes()
