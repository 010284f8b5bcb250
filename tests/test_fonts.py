import logging
from importlib.resources import files

import pytest
from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont

from handwriting.alphabet import VIETNAMESE
from handwriting.errors import ConfigError
from handwriting.fonts import Face, find_families
from pipeline.samples import FONTS


def bytes_of(font):
    return files(font.package).joinpath(font.file).read_bytes()


@pytest.fixture
def folder(tmp_path):
    for font in FONTS:
        (tmp_path / font.package).mkdir()
        (tmp_path / font.package / "font.TTF").write_bytes(bytes_of(font))
    return tmp_path


def test_fonts_of_a_folder_are_found_by_family(folder):
    families = find_families(folder)
    assert [family.name for family in families] == ["Dancing Script Regular", "Lobster Regular", "Pacifico Regular"]
    assert not any(family.lacks(VIETNAMESE) for family in families)
    assert families[0].lacks("a語b") == {"語"}


def test_files_of_one_family_complement_each_other(tmp_path):
    """As web fonts come: one file for the letters of English, another one for those of Vietnamese alone."""
    for name, letters in (("latin", "abc"), ("vietnamese", "ắộ")):
        font = TTFont(str(files(FONTS[1].package).joinpath(FONTS[1].file)))
        options = Options()
        options.flavor = "woff2"
        subsetter = Subsetter(options)
        subsetter.populate(text=letters)
        subsetter.subset(font)
        font.flavor = "woff2"
        font.save(tmp_path / f"{name}.woff2")
    (family,) = find_families(tmp_path)
    assert family.lacks("cắd") == {"d"}
    assert "ắ" in family.face("ắ").characters and "ắ" not in family.face("a").characters


def test_a_file_that_is_no_font_is_named_and_left_out(folder, caplog):
    (folder / "broken.otf").write_bytes(b"no font")
    (folder / "cut.ttf").write_bytes(bytes_of(FONTS[0])[:5000])
    (folder / "readme.txt").write_text("about these fonts")
    with caplog.at_level(logging.WARNING):
        assert len(find_families(folder)) == 3
    assert "broken.otf: no font that can be read" in caplog.text and "cut.ttf: no font" in caplog.text
    assert "readme" not in caplog.text


def test_a_folder_without_fonts_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="has no font; put files of handwriting fonts there"):
        find_families(tmp_path)
    with pytest.raises(ConfigError, match="has no font"):
        find_families(tmp_path / "absent")


def test_weight_of_a_variable_font_changes_its_strokes():
    def ink(face, weight):
        face.set_weight(weight)
        return sum(bytes(face.font.getmask("Huế")))

    variable, fixed = Face(bytes_of(FONTS[0])), Face(bytes_of(FONTS[1]))
    assert ink(variable, 1) > 1.2 * ink(variable, 0)
    assert ink(fixed, 1) == ink(fixed, 0)
