import json
import logging

import numpy as np
import pytest
from PIL import Image

from handwriting.alphabet import VIETNAMESE, Alphabet
from handwriting.errors import ConfigError
from pipeline.cli import main
from handwriting.fonts import Family
from handwriting.rendered_lines import LONGEST, VALIDATION, read_texts, render_lines
from pipeline.samples import compose_texts, sample_families

ALPHABET = Alphabet(VIETNAMESE)
TEXTS = compose_texts(50, 1)


def labels(out, split):
    return json.loads((out / split / "labels.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    out = tmp_path_factory.mktemp("rendered")
    assert render_lines(out, TEXTS, sample_families(), ALPHABET, lines=90, seed=1) == {"train": 87, "validation": 3}
    return out


def test_labels_name_the_pictures_that_lie_there(rendered):
    for split, count in (("train", 87), ("validation", 3)):
        names = {path.name for path in (rendered / split / "images").iterdir()}
        assert names == labels(rendered, split).keys() and len(names) == count


def test_most_lines_are_passages_of_the_texts_and_the_others_have_any_letters(rendered):
    lines = list(labels(rendered, "train").values())
    passages = [line for line in lines if any(line in text for text in TEXTS)]
    assert 0.5 * len(lines) < len(passages) < 0.8 * len(lines)
    assert all(0 < len(line) <= LONGEST and set(line) <= set(VIETNAMESE) for line in lines)
    assert len(set("".join(lines)) - set("".join(TEXTS))) > 20


def test_pictures_are_light_paper_with_dark_ink_of_line_height(rendered):
    for path in rendered.rglob("*.png"):
        with Image.open(path) as picture:
            assert 70 <= picture.height <= 110
            grey = np.asarray(picture.convert("L"))
        assert np.median(grey) > 200 and 0.005 < np.mean(grey < np.median(grey) - 40) < 0.5, path


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(rendered, tmp_path):
    for seed in (1, 2):
        render_lines(tmp_path / str(seed), TEXTS, sample_families(), ALPHABET, lines=30, seed=seed)
    picture = "train/images/00007.png"
    assert (tmp_path / "1" / picture).read_bytes() == (rendered / picture).read_bytes()
    assert (tmp_path / "2" / picture).read_bytes() != (rendered / picture).read_bytes()


def test_each_line_takes_a_font_that_has_its_letters(tmp_path, monkeypatch):
    dancing, pacifico, _ = sample_families()
    plain = Family("plain", dancing.faces)
    monkeypatch.setattr(plain.faces[0], "characters", frozenset("abc "))
    used = []
    monkeypatch.setattr("handwriting.rendered_lines.render", lambda text, family, rng: (
        used.append((text, family.name)), Image.new("L", (8, 8)))[1])
    render_lines(tmp_path, ["abc cab", "đầy đủ"], [plain, pacifico], ALPHABET, lines=60)
    assert {name for text, name in used if set(text) <= set("abc ")} == {"plain", pacifico.name}
    assert {name for text, name in used if not set(text) <= set("abc ")} == {pacifico.name}


def test_letters_that_no_font_has_are_named(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        render_lines(tmp_path, ["abc"], sample_families(), Alphabet("abcक"), lines=30)
    assert "no font has क" in caplog.text
    with pytest.raises(ConfigError, match="no font has all letters of .*; give fonts of that script"):
        render_lines(tmp_path, ["कक"], sample_families(), Alphabet("क"), lines=30)


def test_texts_outside_the_alphabet_are_left_out_and_counted(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        render_lines(tmp_path, ["abc", "xyz", " "], sample_families(), Alphabet("abc"), lines=30)
    assert "1 of 2 texts have a character outside the alphabet" in caplog.text
    assert set("".join(labels(tmp_path, "train").values())) <= set("abc")
    with pytest.raises(ConfigError, match="none of 1 texts is within the alphabet"):
        render_lines(tmp_path, ["xyz"], sample_families(), Alphabet("abc"), lines=30)


def test_too_few_lines_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=f"ask for {VALIDATION} or more"):
        render_lines(tmp_path, TEXTS, sample_families(), ALPHABET, lines=VALIDATION - 1)


def test_a_file_of_texts_is_read_line_by_line(tmp_path):
    (tmp_path / "texts.txt").write_bytes("\ufeffHuế\r\n\nĐà Nẵng\n".encode())
    assert read_texts(tmp_path / "texts.txt") == ["Huế", "Đà Nẵng"]
    (tmp_path / "latin.txt").write_bytes("Köln".encode("latin-1"))
    for name in ("latin.txt", "absent.txt"):
        with pytest.raises(ConfigError, match=f"{name} cannot be read as a UTF-8 text file"):
            read_texts(tmp_path / name)


def test_the_command_renders_what_pack_takes(tmp_path, capsys):
    texts = tmp_path / "texts.txt"
    texts.write_text("Straße\nMünchen\nKöln am Rhein\n", encoding="utf-8")
    assert main(["render", "--out", str(tmp_path / "lines"), "--texts", str(texts), "--lines", "40",
                 "--alphabet", "abcdefghijklmnopqrstuvwxyzäöüßSMKR "]) == 0
    assert json.loads(capsys.readouterr().out)["lines"] == {"train": 39, "validation": 1}
    assert main(["pack", "--data", str(tmp_path / "lines"), "--out", str(tmp_path / "datasets"), "--alphabet", "labels",
                 "--max-rejects", "0.1"]) == 0
    assert json.loads(capsys.readouterr().out)["lines"]["train"] >= 36
