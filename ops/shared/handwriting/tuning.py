"""Searches better hyperparameters on this machine: Optuna over the same space as Katib, trial after trial.

A search can be killed and started again: a seed proposes the same values, and a trial that was finished, or stopped
halfway, is found in `runs/` as any training run is.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import optuna
from optuna import visualization
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from handwriting import report
from handwriting.errors import DataError, HandwritingError
from handwriting.experiment import FIRST_EPOCHS, FIRST_TRIALS, TuneConfig
from handwriting.hyperparameters import Search, search_space

log = logging.getLogger(__name__)

Number = int | float
Values = Mapping[str, Number]
Report = Callable[[int, float], None]

OUTCOMES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "stopped early", TrialState.FAIL: "failed"}
SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed),
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=5),
    "bayesianoptimization": lambda seed: optuna.samplers.GPSampler(seed=seed, n_startup_trials=5),
    "hyperband": lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=5)}


class Trial(NamedTuple):
    """One trial: its number from 1, "finished", "stopped early" or "failed", its CER (NaN: none), its values.

    The CER is that of its best epoch, and of its last one where it was stopped.
    """

    number: int
    outcome: str
    cer: float
    values: Values


class Tuned(NamedTuple):
    """What a search found.

    Attributes:
        best: The values that read best.
        cer: Their validation CER.
        trials: All trials in order.
        page: HTML with a table of the trials, their history, and what each number is worth.
    """

    best: Values
    cer: float
    trials: Sequence[Trial]
    page: str

    def metrics(self) -> dict[str, float]:
        """Returns the numbers of the outcome."""
        outcomes = [trial.outcome for trial in self.trials]
        return {"val_cer": self.cer, "trials": len(outcomes),
                **{name.replace(" ", "_"): outcomes.count(name) for name in OUTCOMES.values()}}

    def summary(self) -> dict[str, Any]:
        """Returns the outcome for the command line."""
        return {"best": dict(self.best), **self.metrics()}


def tune(run: Callable[[Values, Report], float], config: TuneConfig, seed: int = 0) -> Tuned:
    """Runs trials one after another.

    Args:
        run: Trains with some values; calls its second argument with the number and the CER of each epoch, and returns
            the CER of the best one.
        config: How to search.
        seed: Decides what is tried.

    Raises:
        HandwritingError: More trials failed than may.
        DataError: No trial came to its end.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it is said here, and errors without their stack trace
    errors: list[HandwritingError] = []
    study = optuna.create_study(sampler=SAMPLERS[config.algorithm](seed), pruner=_pruner(config))

    def objective(trial: optuna.Trial) -> float:
        def on_epoch(number: int, cer: float) -> None:
            trial.report(cer, number)
            if trial.should_prune():
                raise optuna.TrialPruned

        values = {name: _suggested(trial, name, kind, search) for name, (kind, search) in search_space().items()}
        log.info("trial %d of %d: %s", trial.number + 1, config.trials, said(values))
        try:
            return run(values, on_epoch)
        except HandwritingError as error:
            errors.append(error)
            log.warning("trial %d: %s", trial.number + 1, error)
            raise

    def after(study: optuna.Study, trial: FrozenTrial) -> None:
        log.info("trial %d of %d %s: CER %.4f, best so far %.4f", trial.number + 1, config.trials,
                 OUTCOMES[trial.state], _cer(trial), _best(study))
        if len(errors) > config.failures:
            raise HandwritingError(f"{len(errors)} trials failed, {config.failures} may; the last one with "
                                   f"{said(trial.params)}: {errors[-1]}") from errors[-1]

    study.optimize(objective, config.trials, callbacks=[after], catch=(HandwritingError,))
    return tuned(study)


def tuned(study: optuna.Study) -> Tuned:
    """Returns what a study found.

    Raises:
        DataError: No trial came to its end.
    """
    trials = [Trial(trial.number + 1, OUTCOMES.get(trial.state, "running"), _cer(trial), trial.params)
              for trial in study.get_trials(deepcopy=False)]
    if not math.isfinite(_best(study)):
        raise DataError(f"none of {len(trials)} trials came to its end; look at their errors, or let them train longer")
    return Tuned(study.best_params, study.best_value, trials, _page(study, trials))


def said(values: Values) -> str:
    """Returns values as people read them."""
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())


def _pruner(config: TuneConfig) -> optuna.pruners.BasePruner:
    if not config.stop_early:
        return optuna.pruners.NopPruner()
    if config.algorithm == "hyperband":
        return optuna.pruners.HyperbandPruner()
    return optuna.pruners.MedianPruner(FIRST_TRIALS, FIRST_EPOCHS)


def _suggested(trial: optuna.Trial, name: str, kind: type, search: Search) -> Number:
    if kind is int:
        return trial.suggest_int(name, int(search.low), int(search.high), step=int(search.step or 1))
    return trial.suggest_float(name, search.low, search.high, step=search.step, log=search.log)


def _cer(trial: FrozenTrial) -> float:
    return trial.value if trial.value is not None else min(trial.intermediate_values.values(), default=math.nan)


def _best(study: optuna.Study) -> float:
    return min((_cer(t) for t in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])), default=math.nan)


def _page(study: optuna.Study, trials: Sequence[Trial]) -> str:
    ranked = sorted(trials, key=lambda t: (t.outcome != "finished", t.cer))
    rows = report.grid(("trial", "outcome", "CER", "values"),
                       [(t.number, t.outcome, f"{t.cer:.4f}", said(t.values)) for t in ranked])
    figures = [visualization.plot_optimization_history(study, target_name="validation CER"),
               visualization.plot_parallel_coordinate(study, target_name="validation CER"),
               visualization.plot_slice(study, target_name="validation CER")]
    if len(study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])) > 1:
        figures.insert(1, visualization.plot_param_importances(study, evaluator=PedAnovaImportanceEvaluator()))
    plots = "".join(figure.to_html(full_html=False, include_plotlyjs=number == 0)
                    for number, figure in enumerate(figures))
    best = report.table({"validation CER": f"{study.best_value:.4f}", **study.best_params})
    return report.page("Hyperparameter search", f"<h2>Best</h2>{best}{plots}<h2>Trials, best first</h2>{rows}")
