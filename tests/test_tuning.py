"""The search on one machine: it finds what is better, stops what is worse, and says what failed."""

import math

import pytest

from handwriting.errors import DataError, HandwritingError
from handwriting.experiment import ALGORITHMS, TuneConfig
from handwriting.hyperparameters import search_space
from handwriting.tuning import SAMPLERS, tune


def valley(values, on_epoch):
    """A network that reads best at a learning rate of 1e-3 and with 256 units, and learns for six epochs."""
    best = abs(math.log10(values["learning_rate"]) + 3) / 10 + (256 - values["hidden"]) / 2000
    for epoch in range(1, 7):
        on_epoch(epoch, best + 0.5 / epoch)
    return best + 0.5 / 6


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_algorithm_finds_better_values_within_their_ranges(algorithm):
    found = tune(valley, TuneConfig(algorithm, trials=14, parallel=1))
    assert len(found.trials) == 14 and set(found.best) == set(search_space())
    finished = [trial.cer for trial in found.trials if trial.outcome == "finished"]
    assert found.cer == min(finished) < finished[0]
    for trial in found.trials:
        for name, (kind, search) in search_space().items():
            assert search.low <= trial.values[name] <= search.high and type(trial.values[name]) is kind


def test_a_seed_tries_the_same_values():
    first, second, third = (tune(valley, TuneConfig(trials=6), seed) for seed in (1, 1, 2))
    assert first.trials == second.trials != third.trials


def test_bad_trials_are_stopped_early_unless_that_is_off():
    outcomes = [[trial.outcome for trial in tune(valley, TuneConfig(trials=14, stop_early=stop)).trials]
                for stop in (True, False)]
    assert "stopped early" in outcomes[0] and outcomes[0][:3] == ["finished"] * 3
    assert set(outcomes[1]) == {"finished"}


def test_some_trials_may_fail_and_too_many_end_the_search_with_the_last_error():
    calls = []

    def failing(values, on_epoch):
        calls.append(values)
        if len(calls) in (2, 4):
            raise DataError("the loss is nan")
        return valley(values, on_epoch)

    found = tune(failing, TuneConfig(trials=5, failures=2, stop_early=False))
    assert [trial.outcome for trial in found.trials] == ["finished", "failed", "finished", "failed", "finished"]
    calls.clear()
    with pytest.raises(HandwritingError, match="2 trials failed, 1 may; .*learning_rate .*: the loss is nan"):
        tune(failing, TuneConfig(trials=5, failures=1))
    assert len(calls) == 4


def test_a_search_without_a_finished_trial_is_an_error():
    def failing(values, on_epoch):
        raise DataError("no")

    with pytest.raises(DataError, match="none of 2 trials"):
        tune(failing, TuneConfig(trials=2, parallel=1, failures=2))


def test_the_page_shows_best_values_plots_and_all_trials_and_loads_nothing():
    found = tune(valley, TuneConfig(trials=8))
    assert f"<th>hidden<td>{found.best['hidden']}" in found.page and found.page.count("plotly-graph-div") == 4
    assert found.page.count("<tr><td>") == 8
    assert '<script src="http' not in found.page


def test_katib_and_this_machine_know_the_same_algorithms():
    assert set(SAMPLERS) == set(ALGORITHMS)
