"""Whether a run has anything to learn."""

import pytest

from handwriting.bundle import find_champion
from handwriting.news import anything_new
from handwriting.store import open_store, write_json


@pytest.fixture
def models(tmp_path):
    """A root of models, one of which serves."""
    store = open_store(str(tmp_path / "models"))
    config = {"version": "v1", "image": {}, "alphabet": "ab", "model": {}, "train": {}, "dataset": "abcd"}
    write_json(store, "v1/config.json", config)
    write_json(store, "current.json", {"id": "v1"})
    return store


def test_the_champions_own_dataset_is_nothing_new(models):
    found = anything_new("s3://b/datasets/abcd", models.root)
    assert not found.new and "nothing new, nothing done" in found.reason and f"{models.root}/v1" in found.reason
    assert not anything_new("s3://b/datasets/abcd/", models.root).new


def test_another_dataset_is_new(models):
    found = anything_new("s3://b/datasets/ef01", models.root)
    assert found.new and "ef01" in found.reason and "abcd" in found.reason


def test_force_goes_on_and_says_that_nothing_is_new(models):
    found = anything_new("s3://b/datasets/abcd", models.root, force=True)
    assert found.new and "nothing new" in found.reason


def test_without_a_model_that_serves_all_is_new(models, caplog):
    models.delete("v1/config.json")
    assert find_champion(models.root) == "" and "going on without a champion" in caplog.text
    assert anything_new("s3://b/datasets/abcd", models.root).new
    models.delete("current.json")
    assert anything_new("s3://b/datasets/abcd", models.root).reason == "no model serves yet"
