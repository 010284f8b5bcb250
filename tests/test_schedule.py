"""How a run goes from its first step to its end, by epochs, by the clock and out of patience."""

import pytest

from handwriting.hyperparameters import TrainConfig
from handwriting.schedule import Schedule


def schedule(**settings):
    return Schedule(TrainConfig(**{"epochs": 10, "patience": 3, **settings}))


def after(made, epoch):
    """A schedule at the end of an epoch of four steps."""
    made.step, made.passes = 4 * epoch, epoch
    return made


def test_the_learning_rate_falls_in_the_last_two_fifths_of_a_run():
    made = schedule(learning_rate=2e-3)
    rates = [after(made, epoch).learning_rate() for epoch in range(11)]
    assert rates == pytest.approx([2e-3] * 7 + [1.5e-3, 1e-3, 5e-4, 2e-6])


def test_a_time_limit_counts_where_it_comes_first():
    made = schedule(minutes=10)
    made.passes, made.seconds = 1, 30
    assert made.progress() == pytest.approx(0.1)
    made.seconds = 300
    assert made.progress() == pytest.approx(0.5)
    assert made.progress(epoch=9) == pytest.approx(0.8)


def test_augmentation_grows_with_the_run():
    made = schedule(epochs=100, augmentation=0.5)
    assert [made.augmentation(epoch) for epoch in (1, 3, 12, 21, 100)] == pytest.approx([0, 0, 0.25, 0.5, 0.5])


def test_the_flat_start_and_the_shortcuts_loss_end_with_their_shares_of_the_run():
    made = schedule(epochs=100)
    assert [after(made, epoch).flat() for epoch in (0, 4, 5)] == [True, True, False]
    assert [after(made, epoch).shortcut() for epoch in (29, 30)] == [True, False]
    assert not after(schedule(epochs=1000), 16).flat()  # 64 steps are enough


def test_it_ends_with_its_epochs():
    assert [after(schedule(), epoch).ended(epoch, best=epoch) for epoch in (9, 10)] == [False, True]


def test_a_run_that_reads_no_better_lets_its_rate_fall_at_once_and_shortens_the_fall_in_proportion():
    made = schedule(epochs=20)
    assert not after(made, 5).hurry(5, best=3)
    assert after(made, 6).hurry(6, best=3)
    assert made.progress() == pytest.approx(0.6) and made.epochs == 10
    rates = [after(made, epoch).learning_rate() / 1e-3 for epoch in range(6, 11)]
    assert rates == pytest.approx([1, 0.75, 0.5, 0.25, 1e-3])


def test_a_rate_that_falls_is_given_as_many_epochs_again():
    made = after(schedule(epochs=20), 6)
    assert made.hurry(6, best=3)
    ended = [after(made, epoch).hurry(epoch, best=3) or made.ended(epoch, best=3) for epoch in range(6, 10)]
    assert ended == [False, False, False, True]


def test_a_rate_that_falls_by_itself_is_given_as_many_epochs_again():
    made = schedule(epochs=20)
    ended = [after(made, epoch).hurry(epoch, best=11) or made.ended(epoch, best=11) for epoch in range(12, 16)]
    assert ended == [False, False, False, True]
    assert made.epochs == 20


def test_what_is_better_while_the_rate_falls_counts():
    made = after(schedule(epochs=20), 12)
    assert not made.hurry(12, best=11)
    assert not after(made, 16).ended(16, best=14) and after(made, 17).ended(17, best=14)


def test_a_step_takes_it_on():
    made = schedule()
    made.advance(0.25)
    made.advance(0.5)
    assert made.step == 2 and made.progress() == pytest.approx(0.05)


def test_a_checkpoint_keeps_all_of_it():
    made = after(schedule(epochs=20), 6)
    made.seconds = 12.5
    made.hurry(6, best=3)
    again = schedule(epochs=20)
    again.load_state(made.state())
    assert again.state() == made.state() and again.progress() == made.progress()
