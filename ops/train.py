"""Step 2: a packed dataset becomes a model bundle.

Runs as a pipeline step and, unchanged, as a Katib trial and on each node of a TrainJob.
"""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Metrics, Output

from ops.embedding import SHARED, slim
from ops.packages import BASE_IMAGE, requirements


@slim
@dsl.component(base_image=BASE_IMAGE, packages_to_install=requirements("train"), embedded_artifact_path=SHARED)
def train(
    dataset: str,
    bucket: str,
    metrics: Output[Metrics],
    curves: Output[HTML],
    comet: Output[Artifact],
    epochs: int = 60,
    batch: int = 8,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    augmentation: float = 1.0,
    patience: int = 15,
    minutes: float = 0.0,
    seed: int = 0,
    channels: int = 16,
    columns: int = 192,
    hidden: int = 128,
    layers: int = 2,
    dropout: float = 0.2,
    stack: int = 1,
    start: str = "",
    compare: bool = False,
    num_nodes: int = 1,
    gpus: int = 0,
    cpu: str = "2",
    memory: str = "4Gi",
    shared_memory: str = "",
    step: dict = {},
    secrets: dict = {},
    namespace: str = "kubeflow-user",
    service_account: str = "",
) -> str:
    """Trains a CRNN with CTC and saves the epoch with the best validation CER. Reads S3 credentials, COMET_API_KEY.

    Prints a line an epoch that Katib parses. A killed run goes on from its checkpoint; a finished one is found again.

    Args:
        dataset: URI of the dataset, or of the folder of datasets (its latest).
        bucket: `s3://bucket` that gets the bundle under `models/` and checkpoints under `runs/`.
        metrics: Scores of the saved epoch on the validation lines.
        curves: Loss and error rates by epoch.
        comet: Folder with the offline Comet archive; empty where COMET_API_KEY is set.
        epochs: Passes over the training lines, at most.
        batch: Lines of a step.
        learning_rate: Rate for 60 % of the run; then it falls in a straight line.
        weight_decay: Of AdamW.
        augmentation: Strength of augmentation and splicing, 0 (none) to 1.
        patience: Epochs without a better validation CER after which the rate falls early; once it falls, training ends.
        minutes: Time limit that the schedule is shortened to; 0 for none.
        seed: Decides weights, order and augmentation.
        channels: Channels of the first of four convolution stages; the others have 2, 4 and 8 times as many.
        columns: Features of a time step, after the rows of the last stage are joined.
        hidden: Units of each direction of each recurrent layer.
        layers: Recurrent layers.
        dropout: Share of features dropped while training, 0 to below 1.
        stack: Time steps that the recurrent layers take as one.
        start: URI of a bundle to fine-tune; "champion" for the one that serves, if any; "rendered" to train on
            rendered lines first, once for an alphabet; "" for new weights.
        compare: With a start, also train with new weights, and keep whichever reads validation lines better.
        num_nodes: With several this step does not train: it makes a TrainJob of Kubeflow Trainer, waits for its end,
            and tells its result. All below is for that only.
        gpus: GPUs of a node.
        cpu: Cores that a node asks for.
        memory: Memory that a node asks for.
        shared_memory: Shared memory of a node; "" for 64 MiB.
        step: This step, as a node runs it: image, command, function and artifacts.
        secrets: Keys by Kubernetes secret: variables of the nodes where the secret is there.
        namespace: Where the nodes are.
        service_account: Of the nodes; "" for the namespace's default.

    Returns:
        URI of the bundle.
    """
    from functools import partial
    from pathlib import Path

    from handwriting import layout
    from handwriting.component import Step
    from handwriting.hyperparameters import ModelConfig, TrainConfig
    from handwriting.report import training_page
    from handwriting.runs import train as run
    from handwriting.store import join
    from handwriting.tracking import Comet
    from handwriting.trainjob import Nodes, run_on_nodes

    config = TrainConfig(epochs, batch, learning_rate, weight_decay, augmentation, patience, minutes, seed)
    elsewhere = None
    if num_nodes > 1:
        arguments = {**vars(config), "dataset": dataset, "bucket": bucket, "channels": channels, "columns": columns,
                     "hidden": hidden, "layers": layers, "dropout": dropout, "stack": stack, "start": start,
                     "compare": compare}
        elsewhere = partial(run_on_nodes, Step(**step), arguments, Nodes(num_nodes, gpus, cpu, memory, shared_memory),
                            namespace, secrets, service_account)
    with Comet(Path(comet.path), vars(config)) as experiment:
        result = run(dataset, join(bucket, layout.MODELS), join(bucket, layout.RUNS),
                     ModelConfig(channels, columns, hidden, layers, dropout, stack), config,
                     experiment.log_epoch, start=start, compare=compare, elsewhere=elsewhere)
    for name, value in result.finite_metrics().items():
        metrics.log_metric(name, value)
    Path(curves.path).write_text(training_page(result.summary(), result.epochs, result.left_out), "utf-8")
    return result.model
