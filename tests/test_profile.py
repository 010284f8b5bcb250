"""What a bundle says of what it learned from, and that everything goes on where it says nothing."""

import json
from pathlib import Path

import pytest

from handwriting import profiling
from handwriting.dataset import Dataset, read_manifest
from handwriting.profile import BEAM, CONFIDENCES, GREEDY, PROFILE, WIDTHS, Profile, counted, read_profile, shares
from handwriting.profiling import profile_of
from handwriting.reader import Reader
from handwriting.store import open_store, read_json, write_json


def made(confidences=(0.5,), widths=(400,), labels=100, unknown=0):
    return Profile(counted(widths, WIDTHS), counted(confidences, CONFIDENCES), labels, unknown)


def test_values_count_at_the_first_bound_that_they_do_not_exceed():
    assert counted([0.0, 1.0, 1.5, 2.0, 2.1], (1.0, 2.0)) == [2, 2, 1]
    assert counted([], (1.0,)) == [0, 0]


def test_shares_add_up_to_one_and_are_nothing_of_nothing():
    assert shares([1, 0, 3]) == [0.25, 0.25, 1.0]
    assert shares([0, 0]) == [0.0, 0.0]


@pytest.mark.parametrize("confidences, low, lines", [
    ([0.55] + 9 * [0.95], 0.94, 1),  # a tenth, and the next bound would take all
    ([0.55] + 8 * [0.95], 0.5, 0),  # the one is more than a tenth
    ([0.85] + [0.9] + 18 * [0.97], 0.96, 2),
    ([0.01] * 5, 0.0, 0),  # a reader that is sure of nothing: nothing is lower
    ([1.0] * 5, 0.99, 0)])
def test_low_is_what_a_tenth_of_the_validation_lines_reach_at_most(confidences, low, lines):
    profile = made(confidences)
    assert (profile.low, profile.low_lines) == (low, lines)
    assert profile.low_lines == sum(confidence <= low for confidence in confidences)


@pytest.fixture
def bundle(tmp_path):
    """A store with a profile."""
    store = open_store(str(tmp_path))
    write_json(store, PROFILE, {"widths": counted([400], WIDTHS), "labels": 10, "unknown": 1, "confidences": {
        GREEDY: counted([0.9], CONFIDENCES), BEAM: counted([0.7], CONFIDENCES)}})
    return store


@pytest.mark.parametrize("language_model, confidence", [(False, 0.9), (True, 0.7)])
def test_each_way_to_read_has_its_own_confidences(bundle, language_model, confidence):
    found = read_profile(bundle, language_model)
    assert found.confidences == counted([confidence], CONFIDENCES) and (found.labels, found.unknown) == (10, 1)


@pytest.mark.parametrize("change", [
    {"widths": [1]}, {"widths": [0] * (len(WIDTHS) + 1)}, {"widths": ["1"] * (len(WIDTHS) + 1)}, {"unknown": 11},
    {"confidences": {}}, {"confidences": None}, {"another": 1}])
def test_a_profile_of_another_form_is_none_and_a_warning(bundle, change, caplog):
    write_json(bundle, PROFILE, read_json(bundle, PROFILE) | change)
    assert read_profile(bundle, True) is None
    assert f"{bundle.root}/{PROFILE} does not fit" in caplog.text


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff"])
def test_a_damaged_profile_is_none_and_a_warning(bundle, content, caplog):
    bundle.write(PROFILE, content)
    assert read_profile(bundle, True) is None and "does not fit" in caplog.text


def test_training_writes_what_the_dataset_and_the_served_network_say(tiny_bundle, tmp_path):
    found = json.loads((tiny_bundle / PROFILE).read_text())
    dataset = Dataset(str(tiny_bundle.parent.parent / "datasets"), tmp_path)
    assert found["widths"] == counted([line.width for line in dataset.lines("train")], WIDTHS)
    assert (found["labels"], found["unknown"]) == (40, 40 - len(dataset.all_lines))  # its alphabet is the training's
    for way, language_model in ((GREEDY, False), (BEAM, True)):
        reader = Reader.load(tiny_bundle, language_model=language_model)
        sure = [reader.read_pixels(dataset.pixels(line)).confidence for line in dataset.lines("validation")]
        assert found["confidences"][way] == counted(sure, CONFIDENCES) == reader.profile.confidences


def test_labels_that_the_alphabet_cannot_write_are_counted(small_dataset, tmp_path, monkeypatch):
    folder = tmp_path / "dataset"
    folder.mkdir()
    for path in Path(small_dataset).glob("*.json*"):
        (folder / path.name).write_bytes(path.read_bytes())
    rejects = [{"reason": reason} for reason in ("outside the alphabet", "same picture", "outside the alphabet")]
    write_json(open_store(str(folder)), "rejects.json", rejects)
    monkeypatch.setattr(profiling, "_readings", lambda *given: [])
    lines = sum(read_manifest(open_store(str(folder))).splits.values())
    found = profile_of(Dataset(str(folder), tmp_path), Path(), None)
    assert (found["labels"], found["unknown"]) == (lines + 2, 2)


def test_a_bundle_without_a_profile_reads_as_before_and_says_so_once(tiny_bundle, sample_folder, tmp_path, caplog):
    for path in tiny_bundle.iterdir():
        if path.is_file() and path.name != PROFILE:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    caplog.set_level("INFO")
    old, new = Reader.load(tmp_path), Reader.load(tiny_bundle)
    picture = (sample_folder / "test/images/0001.png").read_bytes()
    assert old.profile is None and old.read([picture]) == new.read([picture])
    assert caplog.text.count(PROFILE) == 1 and "train again" in caplog.text


def test_a_reading_tells_the_width_of_its_line(tiny_bundle, small_dataset, tmp_path):
    dataset = Dataset(small_dataset, tmp_path)
    line = dataset.lines("test")[0]
    for language_model in (False, True):
        assert Reader.load(tiny_bundle, language_model=language_model).read_pixels(
            dataset.pixels(line)).width == line.width
