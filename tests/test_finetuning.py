"""Training goes on from a bundle: what it knew it still knows, also with letters it has never seen."""

import pytest
import torch

from handwriting import runs
from handwriting.alphabet import Alphabet
from handwriting.errors import DataError, MissingError
from handwriting.finetuning import Start, fitted, load_start
from handwriting.hyperparameters import ModelConfig, TrainConfig
from handwriting.image import ImageConfig
from handwriting.labels import LabelConfig
from handwriting.model import CRNN
from handwriting.packing import PackConfig, pack_folder

SMALL, SHORT = ModelConfig(channels=(8, 16, 24, 32), hidden=16, layers=1), TrainConfig(epochs=2)


def network(characters: str) -> CRNN:
    return CRNN(SMALL, Alphabet(characters).classes, 48).eval()


def grown(old: CRNN, old_characters: str, characters: str) -> CRNN:
    new = network(characters)
    start = Start("s3://b/models/v", old.state_dict(), Alphabet(old_characters))
    new.load_state_dict(fitted(start, new.state_dict(), Alphabet(characters)))
    return new


def scores(model: CRNN, characters: str, wanted: str) -> torch.Tensor:
    """Scores of blank and some letters, relative to the blank's."""
    with torch.inference_mode():
        log_probs = model(torch.rand(1, 1, 48, 80, generator=torch.Generator().manual_seed(0)))
    found = log_probs[..., [0, *Alphabet(characters).encode(wanted)]]
    return found - found[..., :1]


@pytest.mark.parametrize("characters", ["abc", "cab", "abcdé", "éadb", "ab"])
def test_letters_of_both_alphabets_are_read_as_before_wherever_they_stand(characters):
    old = network("abc")
    common = "".join(sorted(set("abc") & set(characters)))
    after = scores(grown(old, "abc", characters), characters, common)
    assert torch.allclose(after, scores(old, "abc", common), atol=1e-5)


def test_a_letter_never_seen_is_not_read_before_it_is_learnt():
    after = scores(grown(network("abc"), "abc", "abcé"), "abcé", "abcé")
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


def test_a_bundle_of_this_very_dataset_is_the_result_itself(model, small_dataset, tmp_path):
    again = runs.train(small_dataset, str(tmp_path), str(tmp_path), SMALL, SHORT, start=model.model)
    assert (again.model, again.best, again.trained) == (model.model, model.best, False)
    assert again.epochs == model.epochs


@pytest.mark.parametrize(("changes", "said"), [
    ({"model_config": ModelConfig(hidden=17)}, "hidden=17"), ({"image": ImageConfig(height=32)}, "32 px")])
def test_a_bundle_that_does_not_fit_is_refused(model, changes, said):
    with pytest.raises(DataError, match=said):
        load_start(model.model, **{"model_config": SMALL, "image": ImageConfig()} | changes)


def test_a_bundle_that_is_not_there_is_named(other_dataset, tmp_path):
    with pytest.raises(MissingError, match="nowhere"):
        runs.train(other_dataset, str(tmp_path), str(tmp_path), SMALL, SHORT, start=str(tmp_path / "nowhere"))


def test_a_network_of_another_version_is_refused():
    old = network("abc").state_dict()
    old["recurrent.weight"] = torch.zeros(3)
    with pytest.raises(DataError, match="another network than this version trains"):
        fitted(Start("s3://b/models/v", old, Alphabet("abc")), network("abc").state_dict(), Alphabet("abc"))
