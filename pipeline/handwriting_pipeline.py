"""The pipeline: preprocess -> anything new? -> (tune) train -> evaluate -> promote -> deploy; prelabel beside it."""

from dataclasses import asdict, dataclass
from typing import Any

from kfp import dsl, kubernetes
from kfp.dsl import PipelineTask
from kfp.dsl.graph_component import GraphComponent

from handwriting import layout
from handwriting.errors import ConfigError
from handwriting.hyperparameters import search_space
from handwriting.pods import GPU
from ops.anything_new import anything_new
from ops.deploy import deploy
from ops.evaluate import evaluate
from ops.packages import BASE_IMAGE
from ops.prelabel import prelabel as read_unlabelled
from ops.preprocess import preprocess
from ops.promote import promote
from ops.train import train
from ops.tune import tune as search
from pipeline.katib import train_step

S3_SECRET, LABEL_STUDIO_SECRET, COMET_SECRET = "handwriting-s3", "handwriting-label-studio", "handwriting-comet"
SECRETS = {
    S3_SECRET: ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION"),
    LABEL_STUDIO_SECRET: ("LABEL_STUDIO_TOKEN",),
    COMET_SECRET: ("COMET_API_KEY",),
    layout.TOKEN_SECRET: (layout.TOKEN,),
}
"""Kubernetes secrets and their keys, which are also the names of the variables. Each may be absent: then boto3's own
chain finds credentials, Comet logs offline, and anybody who reaches the predictor may ask it."""
NODE_SECRETS = {S3_SECRET: list(SECRETS[S3_SECRET])}  # of what runs outside the pipeline: trials and nodes


@dataclass(frozen=True)
class Machine:
    """What the train step runs on.

    Attributes:
        image: Its image. One with PyTorch of the pinned version is used as it is; into others pip installs that.
        gpus: GPUs; with several the batch is shared between them. A trial of a search gets one.
        cpu: Cores asked for.
        memory: Memory asked for.
        shared_memory: Size of /dev/shm, which else is 64 MiB; several processes that train together need 1Gi.
        nodes: With several each of them has all this, and the step itself only waits for them. A trial has one.
    """

    image: str = BASE_IMAGE
    gpus: int = 0
    cpu: str = "2"
    memory: str = "4Gi"
    shared_memory: str = ""
    nodes: int = 1

    def __post_init__(self) -> None:
        if self.gpus < 0:
            raise ConfigError(f"{self.gpus} GPUs; give 0 or more")
        if self.nodes < 1:
            raise ConfigError(f"{self.nodes} nodes; give 1 or more")

    def take(self, task: PipelineTask) -> PipelineTask:
        """Lets a task run on it; where there are several, on a plain one that waits for them."""
        if self.nodes > 1:
            return Machine(self.image).take(task)
        if self.image != BASE_IMAGE:
            task.set_container_image(self.image)
            task.set_env_variable("PIP_BREAK_SYSTEM_PACKAGES", "1")  # PyTorch's images have Ubuntu's Python
        task.set_cpu_request(self.cpu).set_memory_request(self.memory)
        if self.gpus:
            task.set_accelerator_type(GPU).set_accelerator_limit(self.gpus)
        if self.shared_memory:
            kubernetes.empty_dir_mount(task, volume_name="shared-memory", mount_path="/dev/shm", medium="Memory",
                                       size_limit=self.shared_memory)
        return task

    def as_nodes(self, namespace: Any) -> dict[str, Any]:
        """Returns the arguments by which the train step lets several of it train; none where there is one.

        Args:
            namespace: Where they are.
        """
        if self.nodes == 1:
            return {}
        return {"num_nodes": self.nodes, "gpus": self.gpus, "cpu": self.cpu, "memory": self.memory,
                "shared_memory": self.shared_memory, "step": asdict(train_step(self.image)),
                "secrets": NODE_SECRETS, "namespace": namespace}


def with_secrets(task: PipelineTask, *secrets: str) -> PipelineTask:
    """Gives a task the variables of some secrets."""
    for secret in secrets:
        kubernetes.use_secret_as_env(task, secret, {key: key for key in SECRETS[secret]}, optional=True)
    return task


def make_pipeline(machine: Machine = Machine()) -> GraphComponent:
    """Returns the pipeline, whose train step runs on a machine."""
    def trained(**arguments: Any) -> PipelineTask:
        task = machine.take(with_secrets(train(**arguments), S3_SECRET, COMET_SECRET))
        return task.set_retry(num_retries=2)  # a retry goes on from the checkpoint

    @dsl.pipeline(name="handwriting", description="Labelled handwritten lines become a served reader.")
    def handwriting_pipeline(
        label_studio_url: str = "http://label-studio.label-studio.svc.cluster.local:8080",
        project: int = 1,
        bucket: str = "s3://ocrpipeline",
        alphabet: str = "",
        height: int = 64,
        squeeze: float = 1.0,
        max_rejects: float = 0.2,
        sync: bool = True,
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
        force: bool = False,
        tune: bool = False,
        katib: bool = True,
        algorithm: str = "tpe",
        trials: int = 12,
        parallel: int = 2,
        trial_epochs: int = 20,
        language_model: bool = True,
        prelabel: bool = True,
        uncertain_first: bool = True,
        margin: float = 0.0,
        name: str = "handwriting",
        namespace: str = "kubeflow-user",
        mode: str = "Standard",
        image: str = BASE_IMAGE,
        keep_share: float = 1.0,
        min_replicas: int = 1,
        max_replicas: int = 3,
        canary: int = 10,
        smoke: bool = True,
        apply: bool = True,
    ) -> None:
        """Trains a reader on what is labelled now, and deploys it if it reads better than the one that serves.

        Args:
            label_studio_url: Address of Label Studio.
            project: Number of the project.
            bucket: `s3://bucket` with the pictures under `data/`; datasets, models and runs go there too.
            alphabet: The characters, "" for the Vietnamese 207, or "labels" to take them from the training labels.
            height: Height of a line in px.
            squeeze: Width of a line, as a share of what its picture's aspect gives, 0.25 to 2; less takes less time.
            max_rejects: Share of labelled pictures that may be rejected, 0 to 1.
            sync: Let Label Studio look for new pictures first.
            epochs: Passes over the training lines, at most.
            batch: Lines of a step.
            learning_rate: Rate for 60 % of the run; then it falls in a straight line.
            weight_decay: Of AdamW.
            augmentation: Strength of augmentation and splicing, 0 (none) to 1.
            patience: Epochs without a better validation CER after which the rate falls early; once it falls, training
                ends.
            minutes: Time limit of training; 0 for none.
            seed: Decides weights, order and augmentation.
            channels: Channels of the first of four convolution stages; the others have 2, 4 and 8 times as many.
            columns: Features of a time step, after the rows of the last stage are joined.
            hidden: Units of each direction of each recurrent layer.
            layers: Recurrent layers.
            dropout: Share of features dropped while training.
            stack: Time steps that the recurrent layers take as one; 2 take less time, where letters are wide enough.
            start: "champion" to fine-tune the model that serves, if any; "rendered" to train on rendered lines first,
                once for an alphabet; the URI of a bundle; "" for new weights.
            compare: With a start, also train with new weights, and keep whichever reads validation lines better.
            force: Go on where the dataset is what the serving model was trained on; else the run ends there.
            tune: Search batch, learning_rate, augmentation, hidden, layers and dropout first, and train new weights
                with the best.
            katib: Search with Katib in `namespace`; False searches in one pod, trial after trial.
            algorithm: Of the search: "random", "tpe", "bayesianoptimization" or "hyperband".
            trials: Trials of the search, at most.
            parallel: Trials at a time, with Katib.
            trial_epochs: Epochs of a trial, at most.
            language_model: Read with a language model of the training labels: fewer errors, more time a line.
            prelabel: Let the model that serves when the run starts read unlabelled pictures, for people to correct.
            uncertain_first: Let the Label Studio project show those readings, and the least certain ones first.
            margin: CER by which a new model must be better than the one that serves.
            name: Name of the InferenceService.
            namespace: Namespace of the InferenceService.
            mode: KServe's deployment mode, "Standard" or "Knative"; "RawDeployment" or "Serverless" up to KServe 0.15.
            image: Image of the predictor; Python 3.11 with pip.
            keep_share: Share of the users' pictures that the predictor keeps, 0 (none) to 1.
            min_replicas: Fewest pods; 0 in Knative mode only.
            max_replicas: Most pods.
            canary: Percent of the requests that a new version gets before it has answered; Knative mode only.
            smoke: Ask the service itself for its version and one reading before it counts as deployed.
            apply: False makes the manifest only, on a machine without a cluster.
        """
        data = with_secrets(preprocess(
            label_studio_url=label_studio_url, project=project, bucket=bucket, alphabet=alphabet, height=height,
            squeeze=squeeze, max_rejects=max_rejects, sync=sync), S3_SECRET, LABEL_STUDIO_SECRET)
        data.set_caching_options(False)  # Label Studio may hold new labels
        dataset = data.outputs["Output"]

        with dsl.If(prelabel == True, name="prelabel"):  # noqa: E712  KFP needs the comparison
            readings = with_secrets(read_unlabelled(
                label_studio_url=label_studio_url, project=project, bucket=bucket, language_model=language_model,
                uncertain_first=uncertain_first, sync=False), S3_SECRET, LABEL_STUDIO_SECRET)
            readings.after(data)  # which lets Label Studio look for new pictures; both at once could find them twice
            readings.set_caching_options(False)  # users may have sent new pictures

        news = with_secrets(anything_new(dataset=dataset, bucket=bucket, force=force), S3_SECRET)
        news.set_caching_options(False)  # another model may serve by now

        # outputs named otherwise than "Output" would silently count as false in a local run (kfp 2.17)
        with dsl.If(news.outputs["Output"] == True, name="new"):  # noqa: E712  KFP needs the comparison
            settings: dict[str, Any] = {"dataset": dataset, "bucket": bucket, "weight_decay": weight_decay,
                                        "patience": patience, "minutes": minutes, "seed": seed, "channels": channels,
                                        "columns": columns, "stack": stack}
            nodes = machine.as_nodes(namespace)
            with dsl.If(tune == True, name="tune"):  # noqa: E712
                best = with_secrets(search(
                    **settings, step=asdict(train_step(machine.image)), secrets=NODE_SECRETS,
                    epochs=trial_epochs, algorithm=algorithm, trials=trials, parallel=parallel,
                    gpus=min(1, machine.gpus), katib=katib, namespace=namespace), S3_SECRET)
                tuned = trained(**settings, **nodes, epochs=epochs,
                                **{name: best.outputs[name] for name in search_space()})
            with dsl.Else(name="as-given"):
                given = trained(**settings, **nodes, epochs=epochs, batch=batch, learning_rate=learning_rate,
                                augmentation=augmentation, hidden=hidden, layers=layers, dropout=dropout, start=start,
                                compare=compare)
            model = dsl.OneOf(tuned.outputs["Output"], given.outputs["Output"])

            scores = with_secrets(evaluate(model=model, dataset=dataset, bucket=bucket, language_model=language_model),
                                  S3_SECRET)
            scores.set_caching_options(False)  # another champion may serve by now

            decision = promote(
                candidate=model, candidate_cer=scores.outputs["cer"], champion=scores.outputs["champion"],
                champion_cer=scores.outputs["champion_cer"], margin=margin)

            with dsl.If(decision.outputs["Output"] == True, name="better"):  # noqa: E712
                service = with_secrets(deploy(
                    model=model, bucket=bucket, name=name, namespace=namespace, mode=mode, image=image,
                    min_replicas=min_replicas, max_replicas=max_replicas, canary=canary, smoke=smoke, apply=apply,
                    language_model=language_model, keep_share=keep_share), S3_SECRET, layout.TOKEN_SECRET)
                service.set_caching_options(False)  # the cluster may have changed

    return handwriting_pipeline


handwriting_pipeline = make_pipeline()
