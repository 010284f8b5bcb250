"""Training starts from rendered lines: once for an alphabet, whatever is labelled later."""

import shutil
from dataclasses import replace

import pytest

from handwriting import exporting, rehearsal, runs
from handwriting.bundle import read_config
from handwriting.dataset import LATEST, Dataset, read_manifest
from handwriting.errors import ConfigError
from handwriting.hyperparameters import ModelConfig, TrainConfig
from handwriting.labels import LabelConfig
from handwriting.packing import PackConfig, pack_folder
from handwriting.store import open_store, read_json

SMALL, SHORT = ModelConfig(channels=4, hidden=16, layers=1), TrainConfig(epochs=2)


@pytest.fixture(autouse=True)
def few_lines(monkeypatch):
    monkeypatch.setattr(rehearsal, "LINES", 60)
    monkeypatch.setattr(rehearsal, "SCHEDULE", TrainConfig(epochs=1))
    monkeypatch.setattr(exporting, "FUSION_LINES", 1)  # beam search is slow where little has been learnt


def train(dataset, folder, **options):
    return runs.train(dataset, str(folder / "models"), str(folder / "runs"), SMALL, SHORT, start=runs.RENDERED,
                      **options)


def rehearsals(folder):
    return [path for path in (folder / "runs" / "rendered").iterdir() if (path / "config.json").exists()]


def test_training_starts_from_rendered_lines_and_the_next_one_from_the_same_bundle(small_dataset, tmp_path, capsys):
    seen = []
    first = train(small_dataset, tmp_path, on_epoch=lambda number, metrics: seen.append(number))
    [rehearsed] = rehearsals(tmp_path)
    assert seen == [1, 2] and capsys.readouterr().out.count("val_cer=") == 2  # neither Comet nor Katib hears of it
    assert read_config(open_store(str(rehearsed))).alphabet == read_manifest(open_store(small_dataset)).alphabet
    assert read_json(open_store(str(tmp_path / "models")), LATEST)["id"] == first.model.rpartition("/")[2]

    fresh = runs.train(small_dataset, str(tmp_path / "models"), str(tmp_path / "runs"), SMALL, SHORT)
    assert fresh.model != first.model and fresh.epochs[0]["train_loss"] != first.epochs[0]["train_loss"]

    assert not train(small_dataset, tmp_path).trained
    other = runs.train(small_dataset, str(tmp_path / "models"), str(tmp_path / "runs"), SMALL, TrainConfig(epochs=1),
                       start=runs.RENDERED)
    assert other.trained and rehearsals(tmp_path) == [rehearsed]


def test_data_packed_with_other_bounds_start_from_the_same_bundle(small_dataset, sample_folder, tmp_path):
    train(small_dataset, tmp_path)
    manifest = read_manifest(open_store(small_dataset))
    wider = PackConfig(replace(manifest.image, max_width=manifest.image.max_width + 100), manifest.alphabet)
    other = pack_folder(str(sample_folder), str(tmp_path / "datasets"), wider, LabelConfig()).uri
    assert train(other, tmp_path).trained and len(rehearsals(tmp_path)) == 1


def test_a_rehearsal_that_somebody_deleted_is_held_again(small_dataset, tmp_path):
    first = train(small_dataset, tmp_path)
    [rehearsed] = rehearsals(tmp_path)
    shutil.rmtree(rehearsed)
    assert train(small_dataset, tmp_path).model == first.model and rehearsals(tmp_path) == [rehearsed]


def test_rendered_lines_are_of_the_datasets_alphabet_and_height(small_dataset, tmp_path):
    manifest = read_manifest(open_store(small_dataset))
    with rehearsal.rendered_dataset(["Huế"], manifest) as uri:
        found = Dataset(uri, tmp_path)
        assert (found.manifest.alphabet, found.manifest.image) == (manifest.alphabet, manifest.image)
        assert len(found.lines("train")) > 50 and found.lines("validation")
        assert "Huế" in {line.text for line in found.lines("train")}


def test_of_much_squeezed_rendered_lines_those_remain_that_are_wide_enough(small_dataset, tmp_path):
    manifest = read_manifest(open_store(small_dataset))
    squeezed = replace(manifest, image=replace(manifest.image, squeeze=0.25))
    with rehearsal.rendered_dataset(["Thành phố Huế, Thừa Thiên Huế"], squeezed) as uri:
        assert 0 < len(Dataset(uri, tmp_path).all_lines) < 0.8 * rehearsal.LINES


def test_without_fonts_it_says_what_to_install(small_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("handwriting.fonts.PACKAGES", "no-such-font-")
    with pytest.raises(ConfigError, match=r"no package no-such-font-\* is installed: pip install -e '.\[fonts\]'"):
        train(small_dataset, tmp_path)
