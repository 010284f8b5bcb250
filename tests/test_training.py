"""Training on a few drawn lines: it learns, it can be killed, it says what is wrong."""

import json
import multiprocessing
import re
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import gone

from handwriting import runs, sources, training
from handwriting.batches import BUFFER, Batch, Feeding, LeftOut, TrainingLines, buckets, reading_batch
from handwriting.bundle import CONFIG, ONNX, WEIGHTS
from handwriting.alphabet import Alphabet
from handwriting.dataset import Dataset, Line
from handwriting.epochs import Epoch
from handwriting.errors import DataError, MissingError
from handwriting.finetuning import load_start
from handwriting.hyperparameters import ModelConfig, TrainConfig
from handwriting.image import WHITE
from handwriting.losses import flat_loss
from handwriting.metrics import Scores, score
from handwriting.ctc import Reading, steps
from handwriting.model import CRNN
from handwriting.reader import Reader, network_input
from handwriting.schedule import SHORTCUT_SHARE
from handwriting.store import open_store
from handwriting.training import CHECKPOINT, Trainer

SMALL = ModelConfig(channels=4, hidden=32, layers=1, dropout=0.0)
SHORT = TrainConfig(epochs=3, batch=4, patience=3)


@pytest.fixture
def dataset(small_dataset, tmp_path):
    return Dataset(small_dataset, tmp_path / "cache")


def epoch_order(lines, size, seed):
    """The lines of each bucket, as indices."""
    return [bucket.lines for bucket in buckets(lines, size, np.random.default_rng(seed))]


def line_of(shard, width=100):
    return Line("train", "train/images/0.png", "a", "digest", "tag", shard, 0, width)


def test_it_overfits_eight_lines(dataset):
    config = TrainConfig(epochs=80, batch=4, learning_rate=3e-3, augmentation=0.0, patience=80)
    dataset.all_lines = [line._replace(split=split) for line in dataset.lines("train")[:8]
                         for split in ("train", "validation")]
    trained = Trainer(dataset, ModelConfig(channels=8, hidden=64, layers=1, dropout=0.0), config).run()
    assert trained.best.scores.cer < 0.05


@pytest.mark.parametrize("config, early", [(SHORT, False), (TrainConfig(epochs=12, batch=4, patience=2), True)],
                         ids=["whole", "impatient"])
def test_a_killed_run_goes_on_to_the_very_same_weights(dataset, tmp_path, config, early):
    whole = Trainer(dataset, SMALL, config).run()
    last = len(whole.history)  # of an impatient run, after its rate fell early
    assert (last < config.epochs) == early

    class Killed(Exception):
        pass

    def kill(epoch):
        if epoch.number == last:
            raise Killed

    store = open_store(str(tmp_path / "run"))
    with pytest.raises(Killed):
        Trainer(dataset, SMALL, config, store, checkpoint_seconds=0).run(kill)
    seen = []
    resumed = Trainer(dataset, SMALL, config, store, checkpoint_seconds=0).run(lambda epoch: seen.append(epoch.number))
    assert seen == [*range(1, last + 1)]
    assert [epoch.metrics() for epoch in resumed.history] == [epoch.metrics() for epoch in whole.history]
    assert all(torch.equal(resumed.weights[name], whole.weights[name]) for name in whole.weights)


def test_the_best_epoch_is_kept_not_the_last(dataset):
    trainer = Trainer(dataset, SMALL, SHORT)
    scores = [Scores(cer, 1, 0, 0, 1, 1, 1) for cer in (0.5, 0.2, 0.4)]
    trainer.history = [Epoch(number, 1.0, score, 1.0) for number, score in enumerate(scores, 1)]
    assert trainer.best.number == 2


def test_no_thread_prepares_lines_when_a_run_has_stopped(dataset):
    trainer = Trainer(dataset, SMALL, TrainConfig(epochs=50, patience=1))
    trainer.run()
    assert trainer.history[-1].number < 50
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prepare")]


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_lines(dataset):
    trainer = Trainer(dataset, SMALL, SHORT)
    trainer.model.head.bias.data.fill_(float("nan"))
    with pytest.raises(DataError, match=r"the loss is nan in epoch 1, step 0, lines \['train/images/.*learning_rate"):
        trainer.run()


def test_a_time_limit_ends_the_run_within_an_epoch(dataset):
    trainer = Trainer(dataset, SMALL, TrainConfig(epochs=50, batch=1, minutes=1e-4))
    assert len(trainer.run().history) == 1
    assert trainer.schedule.step < len(trainer.training_lines.lines)


def test_a_damaged_checkpoint_is_a_clear_error(dataset, tmp_path):
    store = open_store(str(tmp_path))
    store.write(CHECKPOINT, b"not a checkpoint")
    with pytest.raises(DataError, match="checkpoint .* is damaged; delete it"):
        Trainer(dataset, SMALL, SHORT, store).run()


def test_katib_reads_every_line_and_never_sees_nan():
    line = Epoch(3, float("nan"), Scores(0.25, 0.5, 0.1, 0.9, 1, 4, 1), 1.0).katib_line()
    assert re.match(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ epoch=3 ", line)
    assert "val_cer=0.250000" in line and "nan" not in line
    assert re.findall(r"([\w|-]+)\s*=\s*([+-]?\d*(?:\.\d+)?(?:[Ee][+-]?\d+)?)", line)


def test_an_epoch_visits_every_line_once_and_repeats_for_its_seed():
    lines = [line_of(f"shard{i % 7}", width=100 + i) for i in range(100)]
    order = [epoch_order(lines, 7, [1, 2]) for _ in range(2)]
    assert order[0] == order[1]
    assert sorted(i for batch in order[0] for i in batch) == list(range(100))


def test_an_epoch_reads_shards_in_sequence_a_few_at_a_time():
    lines = [line_of(f"shard{i % 20}") for i in range(400)]
    order = epoch_order(lines, 8, 0)
    shards = [lines[i].shard for batch in order for i in batch]
    seen = [set(shards[start:start + 20 * BUFFER]) for start in range(0, 400, 20 * BUFFER)]
    assert all(len(some) == BUFFER for some in seen) and len(set.union(*seen)) == 20


def test_lines_are_spliced_once_letters_are_found_and_never_without_augmentation(dataset):
    trainer = Trainer(dataset, SMALL, SHORT)
    lines, labels = trainer.training_lines, {line.text for line in trainer.training_lines.lines}

    def texts(strength):
        return {line.text for parts in lines.batches(4, 2, strength, (0, 1)) for part in parts for line in part.lines}

    assert texts(1.0) == labels
    trainer.find_letters()
    assert texts(1.0) - labels and texts(0.0) == labels


@pytest.mark.parametrize("augmentation, after", [(1.0, [3]), (0.0, [])])
def test_letters_are_found_as_soon_as_the_network_reads_legibly(dataset, monkeypatch, augmentation, after):
    trainer, found = Trainer(dataset, SMALL, TrainConfig(epochs=5, augmentation=augmentation)), []
    cers = iter([0.9, 0.2, 0.19, 0.1, 0.1])
    monkeypatch.setattr(trainer, "validate", lambda: replace(score(["a"], ["a"]), cer=next(cers)))
    monkeypatch.setattr(trainer, "find_letters", lambda: found.append(len(trainer.history)))
    trainer.run()
    assert found == after


def test_a_line_that_says_something_else_than_its_label_is_left_out_and_named(dataset, monkeypatch):
    trainer = Trainer(dataset, SMALL, SHORT)
    lines = trainer.training_lines.lines
    readings = {line.text: line.text for line in lines}
    wrong = lines[0]
    readings[wrong.text] = wrong.text + ", and more"
    monkeypatch.setattr(trainer, "read", lambda lines, function: [(line, function(line, line.text)) for line in lines])
    monkeypatch.setattr(training, "decode_greedy", lambda text, _: Reading(readings[text], 1.0, ()))
    monkeypatch.setattr(training, "letter_starts", lambda pixels, _, text, __: np.zeros(len(text) + 1, int))
    monkeypatch.setattr(training, "MOST_DOUBTFUL", 1.5 / len(lines))
    trainer.find_letters()
    assert set(lines) - set(trainer.training_lines.lines) == {wrong}
    assert trainer.training_lines.left_out == [LeftOut(wrong.key, wrong.text, wrong.text + ", and more")]
    other = TrainingLines(dataset, lines, trainer.alphabet)
    other.load_state(trainer.training_lines.state())
    assert (other.lines, other.left_out) == (trainer.training_lines.lines, trainer.training_lines.left_out)
    assert len(other.starts) == len(other.lines)


def test_a_network_that_errs_everywhere_leaves_no_line_out(dataset, monkeypatch):
    trainer = Trainer(dataset, SMALL, SHORT)
    lines = trainer.training_lines.lines
    monkeypatch.setattr(training, "lacks_a_passage", lambda *_: True)
    trainer.find_letters()
    assert trainer.training_lines.lines == lines


def test_other_processes_change_lines_as_this_one_does(dataset):
    alphabet, lines = Alphabet(dataset.manifest.alphabet), dataset.lines("train")
    starts = {line: np.linspace(0, line.width, len(line.text) + 1).astype(int) for line in lines}
    here = TrainingLines(dataset, lines, alphabet)
    with closing(TrainingLines(dataset, lines, alphabet, Feeding(processes=2, threads=2))) as there:
        for number in range(2):
            expected, found = ([part for parts in some.batches(4, 2, 1.0, (0, number)) for part in parts]
                               for some in (here, there))
            assert [part.lines for part in found] == [part.lines for part in expected]
            assert all(a.images.equal(b.images) for a, b in zip(found, expected, strict=True))
            for some in (here, there):  # the processes must notice
                some.take_letters(starts, [LeftOut(lines[0].key, "", "")])


def test_a_killed_process_that_prepares_lines_is_a_clear_error(dataset):
    alphabet = Alphabet(dataset.manifest.alphabet)
    with closing(TrainingLines(dataset, dataset.lines("train"), alphabet, Feeding(processes=1))) as lines:
        assert list(lines.batches(4, 1, 1.0, (0, 1)))
        for child in multiprocessing.active_children():
            child.kill()
        with pytest.raises(DataError, match="processes that prepare lines was killed; give training more memory"):
            list(lines.batches(4, 1, 1.0, (0, 2)))


TRAINS_FOR_EVER = """
import multiprocessing, time
from pathlib import Path
from handwriting.alphabet import Alphabet
from handwriting.batches import Feeding, TrainingLines
from handwriting.dataset import Dataset
dataset = Dataset({uri!r}, Path({cache!r}))
lines = TrainingLines(dataset, dataset.lines("train"), Alphabet(dataset.manifest.alphabet), Feeding(processes=2))
list(lines.batches(4, 1, 1.0, (0, 1)))
print(*[child.pid for child in multiprocessing.active_children()], flush=True)
time.sleep(600)
"""


def test_processes_that_prepare_lines_end_when_training_is_killed(dataset):
    code = TRAINS_FOR_EVER.format(uri=dataset.uri, cache=str(dataset.cache))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as training_run:
        children = [int(pid) for pid in training_run.stdout.readline().split()]
        training_run.kill()
    assert len(children) == 2 and all(map(gone, children))


def test_batches_hold_paper_right_of_each_line(dataset):
    lines = TrainingLines(dataset, dataset.lines("train"), Alphabet(dataset.manifest.alphabet))
    for parts in lines.batches(4, 2, 0.0, (0, 1)):
        assert [len(part.lines) for part in parts] in ([2, 2], [2])
        for image, line in ((image, line) for part in parts for image, line in zip(part.images, part.lines)):
            assert (image[..., line.width:] == WHITE).all()
            assert image[..., :line.width].min() < WHITE / 2


@pytest.mark.parametrize("lines, batch, expected", [(6, 6, [3, 3]), (7, 6, [3, 3, 1]), (11, 6, [3, 3, 3, 2]),
                                                    (10, 6, [3, 3, 2, 2])])
def test_the_last_batch_is_cut_into_parts_of_as_many_lines(dataset, lines, batch, expected):
    lines = TrainingLines(dataset, dataset.lines("train")[:lines], Alphabet(dataset.manifest.alphabet))
    made = [len(part.lines) for parts in lines.batches(batch, 2, 0.0, (0, 1)) for part in parts]
    assert sorted(made, reverse=True) == expected


def test_the_reader_that_serves_gives_the_network_what_training_does(dataset):
    for line in dataset.lines("train")[:8]:
        training_input = (WHITE - reading_batch(dataset, [line]).images.float()) / WHITE
        np.testing.assert_array_equal(network_input(dataset.pixels(line))["images"], training_input)


@pytest.mark.parametrize("stack", [1, 2, 3])
@pytest.mark.parametrize("width", [4, 128, 132])
def test_the_network_gives_a_step_for_every_four_columns(width, stack):
    log_probs = CRNN(replace(SMALL, stack=stack), 10, 64).eval()(torch.zeros(2, 1, 64, width))
    assert log_probs.shape == (2, steps(width), 10)
    assert torch.allclose(log_probs.exp().sum(dim=2), torch.ones(2, steps(width)), atol=1e-5)


@pytest.mark.parametrize("ink, step", [(slice(0, 4), 20), (slice(-4, None), -21)])
def test_what_a_step_says_hangs_on_what_comes_before_it_and_after_it(ink, step):
    """20 steps away convolutions no longer see the ink, so that only the recurrent layers tell of it."""
    torch.manual_seed(0)
    blank = torch.zeros(1, 1, 64, 256)
    written = blank.clone()
    written[..., ink] = 1
    both = CRNN(SMALL, 10, 64).eval().forward_with_shortcut
    (logits, shortcut), (other_logits, other_shortcut) = both(blank), both(written)
    assert torch.equal(shortcut[0, step], other_shortcut[0, step])
    assert not torch.equal(logits[0, step], other_logits[0, step])


def test_a_run_writes_a_bundle_that_reads_and_a_second_run_trains_nothing(small_dataset, tmp_path):
    seen = []
    first = runs.train(small_dataset, str(tmp_path / "models"), str(tmp_path / "runs"), SMALL, SHORT,
                       lambda number, metrics: seen.append(number))
    folder = tmp_path / "models" / first.model.rpartition("/")[2]
    assert {CONFIG, WEIGHTS, ONNX} <= {path.name for path in folder.iterdir()}
    assert not list((tmp_path / "runs").rglob(CHECKPOINT))
    assert len(Reader.load(folder).version) == 12
    language_model = Reader.load(folder, language_model=True).language_model
    assert language_model.bits([line.text for line in Dataset(small_dataset, tmp_path).lines("train")]) < 2
    second = runs.train(small_dataset, str(tmp_path / "models"), str(tmp_path / "runs"), SMALL, SHORT)
    assert seen == [1, 2, 3] and second.model == first.model and not second.trained
    assert json.dumps(second.summary())


def test_a_bundle_without_a_language_model_is_read_without_and_says_so(small_dataset, tmp_path, caplog):
    model = runs.train(small_dataset, str(tmp_path / "models"), str(tmp_path / "runs"), SMALL, SHORT).model
    (tmp_path / "models" / model.rpartition("/")[2] / "language_model.json").unlink()
    assert Reader.fetch(model, language_model=True).language_model is None
    assert "reading without a language model" in caplog.text


def test_the_flat_start_puts_letters_in_order_over_the_ink():
    images = torch.full((1, 1, 48, 160), WHITE, dtype=torch.uint8)
    images[..., 40:120] = 0  # ink from step 10 to step 30
    batch = Batch(images, torch.tensor([40]), torch.tensor([1, 2]), torch.tensor([2]), [])
    right, wrong = torch.full((1, 40, 3), 0.25), torch.full((1, 40, 3), 0.25)
    right[0, :20, 1] = right[0, 20:, 2] = wrong[0, :20, 2] = wrong[0, 20:, 1] = 0.5
    assert flat_loss(right.log(), batch) < flat_loss(wrong.log(), batch)


def test_the_shortcut_has_a_loss_of_its_own_in_the_first_part_of_a_run_only(dataset, monkeypatch):
    heads, losses = {}, training.ctc_losses

    def counted(outputs, part):
        heads.setdefault(trainer.schedule.progress() < SHORTCUT_SHARE, set()).add(len(outputs))
        return losses(outputs, part)

    monkeypatch.setattr(training, "ctc_losses", counted)
    trainer = Trainer(dataset, SMALL, SHORT)
    trainer.run()
    assert heads == {True: {2}, False: {1}}


def test_a_run_that_starts_from_a_bundle_knows_where_letters_stand(small_dataset, dataset, tmp_path):
    model = runs.train(small_dataset, str(tmp_path / "models"), str(tmp_path / "runs"), SMALL, SHORT).model
    trainer = Trainer(dataset, SMALL, SHORT)
    assert trainer.schedule.flat()
    trainer.start_from(load_start(model, SMALL, dataset.manifest.image))
    assert not trainer.schedule.flat()


def test_a_run_in_which_lines_are_left_out_has_its_epochs_whole(dataset, monkeypatch):
    trainer = Trainer(dataset, SMALL, TrainConfig(epochs=8, batch=1, patience=8))
    wrong, steps = {line.text for line in dataset.lines("train")[:3]}, Counter()
    monkeypatch.setattr(training, "lacks_a_passage", lambda text, _: text in wrong)
    monkeypatch.setattr(training, "MOST_DOUBTFUL", 1)
    monkeypatch.setattr(training, "LEGIBLE", 9)  # letters are looked for after the first epoch, for the third
    train_step = trainer.train_step

    def counted(parts, number):
        steps[number] += 1
        return train_step(parts, number)

    monkeypatch.setattr(trainer, "train_step", counted)
    before, left = len(dataset.lines("train")), len(trainer.run().left_out)
    assert left >= 3
    assert steps == {1: before, 2: before, **dict.fromkeys(range(3, 9), before - left)}
    assert trainer.schedule.progress() == 1


def test_other_settings_or_code_are_another_run(monkeypatch):
    base = runs.run_id("d", SMALL, SHORT)
    assert runs.run_id("d", SMALL, TrainConfig(seed=1)) != base
    assert runs.run_id("e", SMALL, SHORT) != base
    monkeypatch.setattr(sources, "digest", lambda root: "other")
    assert runs.run_id("d", SMALL, SHORT) != base


def test_a_missing_dataset_is_named(tmp_path):
    with pytest.raises(MissingError, match="manifest.json"):
        runs.train(str(tmp_path), str(tmp_path), str(tmp_path), SMALL, SHORT)


def test_an_empty_split_is_named(dataset):
    dataset.all_lines = [line for line in dataset.all_lines if line.split != "validation"]
    with pytest.raises(DataError, match="no line in split 'validation'"):
        Trainer(dataset, SMALL, SHORT)
