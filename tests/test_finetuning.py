"""Training goes on from a bundle: what it knew it still knows, also with letters it has never seen."""

import shutil
from dataclasses import replace

import pytest
import torch

from handwriting import runs
from handwriting.alphabet import Alphabet
from handwriting.bundle import CURRENT
from handwriting.dataset import LATEST
from handwriting.errors import DataError, MissingError
from handwriting.finetuning import Start, fitted, load_start
from handwriting.hyperparameters import ModelConfig, TrainConfig
from handwriting.image import ImageConfig
from handwriting.labels import LabelConfig
from handwriting.model import CRNN
from handwriting.packing import PackConfig, pack_folder
from handwriting.store import open_store, read_json, write_json

SMALL, SHORT = ModelConfig(channels=4, hidden=16, layers=1), TrainConfig(epochs=2)


def network(characters: str, stack: int = 1) -> CRNN:
    return CRNN(replace(SMALL, stack=stack), Alphabet(characters).classes, 48).eval()


def grown(old: CRNN, old_characters: str, characters: str) -> CRNN:
    new = network(characters, old.stack)
    start = Start("s3://b/models/v", old.state_dict(), Alphabet(old_characters))
    new.load_state_dict(fitted(start, new.state_dict(), Alphabet(characters)))
    return new


def scores(model: CRNN, characters: str, wanted: str) -> torch.Tensor:
    """Scores of blank and some letters, relative to the blank's."""
    with torch.inference_mode():
        log_probs = model(torch.rand(1, 1, 48, 80, generator=torch.Generator().manual_seed(0)))
    found = log_probs[..., [0, *Alphabet(characters).encode(wanted)]]
    return found - found[..., :1]


@pytest.mark.parametrize("stack", [1, 2])
@pytest.mark.parametrize("characters", ["abc", "cab", "abcdé", "éadb", "ab"])
def test_letters_of_both_alphabets_are_read_as_before_wherever_they_stand(characters, stack):
    old = network("abc", stack)
    common = "".join(sorted(set("abc") & set(characters)))
    after = scores(grown(old, "abc", characters), characters, common)
    assert torch.allclose(after, scores(old, "abc", common), atol=1e-5)


@pytest.mark.parametrize("stack", [1, 2])
def test_a_letter_never_seen_is_not_read_before_it_is_learnt(stack):
    after = scores(grown(network("abc", stack), "abc", "abcé"), "abcé", "abcé")
    assert (after[..., -1] < after[..., :-1].amin(dim=-1)).all()


@pytest.fixture(scope="module")
def model(small_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    return runs.train(small_dataset, str(folder), str(folder / "runs"), SMALL, SHORT)


@pytest.fixture(scope="module")
def other_dataset(sample_folder, tmp_path_factory):
    """The same lines with the alphabet of their labels."""
    folder = tmp_path_factory.mktemp("other")
    return pack_folder(str(sample_folder), str(folder), PackConfig(alphabet="labels"), LabelConfig()).uri


def test_fine_tuning_goes_on_where_the_bundle_stopped(model, other_dataset, tmp_path):
    def train(start):
        return runs.train(other_dataset, str(tmp_path / "models"), str(tmp_path / "runs"), SMALL, SHORT, start=start)

    tuned, fresh = train(model.model), train("")
    assert tuned.epochs[0]["train_loss"] < fresh.epochs[0]["train_loss"]
    assert tuned.model != fresh.model and tuned.trained
    assert not train(model.model).trained  # it is found again, as every run is


def test_the_champion_is_fine_tuned_and_without_one_training_begins_anew(model, other_dataset, tmp_path):
    models = tmp_path / "models"

    def train():
        return runs.train(other_dataset, str(models), str(tmp_path / "runs"), SMALL, SHORT, start=runs.CHAMPION)

    fresh = train()
    version = model.model.rpartition("/")[2]
    shutil.copytree(model.model, models / version)
    write_json(open_store(str(models)), CURRENT, {"id": version})
    tuned = train()
    assert tuned.trained and tuned.model != fresh.model
    assert tuned.epochs[0]["train_loss"] < fresh.epochs[0]["train_loss"]


def test_of_a_fine_tuned_and_a_fresh_network_the_better_reader_is_kept(model, other_dataset, tmp_path):
    models, told = str(tmp_path / "models"), []
    found = runs.train(other_dataset, models, str(tmp_path / "runs"), SMALL, SHORT,
                       lambda number, metrics: told.append(number), start=model.model, compare=True)
    results = [read_json(open_store(str(path.parent)), path.name) for path in (tmp_path / "runs").glob("*/result.json")]
    cers = {result["version"]: result["epochs"][result["best"] - 1]["val_cer"] for result in results}
    assert len(cers) == 2 and found.cer == min(cers.values()) and told == [*range(1, 2 * SHORT.epochs + 1)]
    assert read_json(open_store(models), LATEST)["id"] == found.model.rpartition("/")[2]


def test_a_bundle_of_this_very_dataset_is_the_result_itself(model, small_dataset, tmp_path):
    again = runs.train(small_dataset, str(tmp_path), str(tmp_path), SMALL, SHORT, start=model.model)
    assert (again.model, again.best, again.trained) == (model.model, model.best, False)
    assert again.epochs == model.epochs


@pytest.mark.parametrize(("changes", "said"), [
    ({"model_config": ModelConfig(hidden=17)}, "hidden=17"), ({"image": ImageConfig(height=32)}, "32 px")])
def test_a_bundle_that_does_not_fit_is_refused(model, changes, said):
    with pytest.raises(DataError, match=said):
        load_start(model.model, **{"model_config": SMALL, "image": ImageConfig()} | changes)


def test_dropout_may_differ_from_the_bundles(model):
    start = load_start(model.model, replace(SMALL, dropout=0.4), ImageConfig())
    assert start.weights["head.weight"].shape[1] == SMALL.hidden


def test_a_bundle_that_is_not_there_is_named(other_dataset, tmp_path):
    with pytest.raises(MissingError, match="nowhere"):
        runs.train(other_dataset, str(tmp_path), str(tmp_path), SMALL, SHORT, start=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name, weight", [
    ("recurrent.weight", torch.zeros(3)),
    ("columns.0.0.weight", torch.zeros(SMALL.columns, 24 * SMALL.channels, 1, 1)),  # rows as channels
    ("head.weight", torch.zeros(4, 2 * SMALL.hidden)),  # whose directions were put side by side
    ("shortcut.weight", torch.zeros(4, SMALL.columns, 5))])  # which told classes straight from the columns
def test_a_network_of_another_version_is_refused(name, weight):
    old = network("abc").state_dict() | {name: weight}
    with pytest.raises(DataError, match="another network than this version trains"):
        fitted(Start("s3://b/models/v", old, Alphabet("abc")), network("abc").state_dict(), Alphabet("abc"))
