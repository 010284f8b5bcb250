"""Step 2a, on request: a search for better hyperparameters, whose trials run the train step unchanged."""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import HTML, Metrics, Output

from ops.embedding import SHARED, slim
from ops.packages import BASE_IMAGE, requirements


@slim
@dsl.component(base_image=BASE_IMAGE, packages_to_install=requirements("tune"), embedded_artifact_path=SHARED)
def tune(
    dataset: str,
    bucket: str,
    step: dict,
    secrets: dict,
    metrics: Output[Metrics],
    page: Output[HTML],
    epochs: int = 60,
    weight_decay: float = 0.01,
    patience: int = 15,
    minutes: float = 0.0,
    seed: int = 0,
    channels: int = 16,
    columns: int = 192,
    stack: int = 1,
    algorithm: str = "tpe",
    trials: int = 12,
    parallel: int = 2,
    failures: int = 3,
    stop_early: bool = True,
    gpus: int = 0,
    katib: bool = True,
    namespace: str = "kubeflow-user",
    service_account: str = "",
) -> NamedTuple("Hyperparameters", [  # type: ignore[valid-type]
        ("batch", int), ("learning_rate", float), ("augmentation", float), ("hidden", int), ("layers", int),
        ("dropout", float)]):
    """Searches with Katib, or trial after trial in this very pod. Reads S3 credentials.

    The trials' models and runs go to the bucket's `tuning/`.

    Args:
        dataset: URI of the dataset, or of the folder of datasets (its latest).
        bucket: `s3://bucket`.
        step: The train step: image, command, function and artifacts.
        secrets: Keys by Kubernetes secret: variables of the trials where the secret is there.
        metrics: CER of the best trial, and how many there were.
        page: Table of all trials, their history, and what each number is worth.
        epochs: Of a trial, at most.
        weight_decay: Of AdamW, in all trials.
        patience: Epochs without a better validation CER after which the rate falls early; once it falls, a trial ends.
        minutes: Time limit of a trial; 0 for none.
        seed: Of all trials, and of a search in this pod.
        channels: Of the first convolution stage of all trials; the others have 2, 4 and 8 times as many.
        columns: Features of a time step of all trials.
        stack: Time steps that the recurrent layers of all trials take as one.
        algorithm: "random", "tpe", "bayesianoptimization" or "hyperband".
        trials: Trials, at most.
        parallel: Trials at a time, with Katib.
        failures: Trials that may fail.
        stop_early: End trials that are worse than the median of those before.
        gpus: GPUs of a trial, with Katib.
        katib: Search with Katib; False searches in this pod with Optuna.
        namespace: Where Katib runs the trials; its label lets Katib read their metrics.
        service_account: Of the trials; "" for the namespace's default.

    Returns:
        batch: The best one's lines of a step.
        learning_rate: Its rate at the start.
        augmentation: Its strength of augmentation.
        hidden: Its units of each direction of each recurrent layer.
        layers: Its recurrent layers.
        dropout: Its share of features dropped.
    """
    from pathlib import Path

    from handwriting import layout
    from handwriting.component import Step
    from handwriting.experiment import TuneConfig
    from handwriting.searches import search_here, search_with_katib
    from handwriting.store import join

    arguments = {"dataset": dataset, "bucket": join(bucket, layout.TUNING), "epochs": epochs,
                 "weight_decay": weight_decay, "patience": patience, "minutes": minutes, "seed": seed,
                 "channels": channels, "columns": columns, "stack": stack}
    config = TuneConfig(algorithm, trials, min(parallel, trials), failures, stop_early, gpus=gpus)
    if katib:
        found = search_with_katib(Step(**step), arguments, config, namespace, secrets, service_account)
    else:
        found = search_here(Step(**step), arguments, config)
    for name, value in found.metrics().items():
        metrics.log_metric(name, value)
    Path(page.path).write_text(found.page, "utf-8")
    best = found.best
    return best["batch"], best["learning_rate"], best["augmentation"], best["hidden"], best["layers"], best["dropout"]
