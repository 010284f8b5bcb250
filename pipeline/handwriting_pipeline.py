"""The pipeline: preprocess -> train -> evaluate -> promote -> deploy."""

from typing import NamedTuple

from kfp import dsl, kubernetes
from kfp.dsl import PipelineTask

from ops.deploy import deploy
from ops.evaluate import evaluate
from ops.packages import BASE_IMAGE
from ops.preprocess import preprocess
from ops.promote import promote
from ops.train import train

S3_SECRET, LABEL_STUDIO_SECRET, COMET_SECRET = "handwriting-s3", "handwriting-label-studio", "handwriting-comet"
SECRETS = {
    S3_SECRET: ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION"),
    LABEL_STUDIO_SECRET: ("LABEL_STUDIO_TOKEN",),
    COMET_SECRET: ("COMET_API_KEY",),
}
"""Kubernetes secrets and their keys, which are also the names of the variables. Each may be absent: then boto3's own
chain finds credentials, and Comet logs offline."""


class Outcome(NamedTuple):
    """What a run gives: the candidate's URI, its CER on the test lines, and the champion's."""

    model: str
    cer: float
    champion_cer: float


def _with_secrets(task: PipelineTask, *secrets: str) -> PipelineTask:
    """Gives a task the variables of some secrets."""
    for secret in secrets:
        kubernetes.use_secret_as_env(task, secret, {key: key for key in SECRETS[secret]}, optional=True)
    return task


@dsl.pipeline(name="handwriting", description="Labelled handwritten lines become a served reader.")
def handwriting_pipeline(
    label_studio_url: str = "http://label-studio.label-studio.svc.cluster.local:8080",
    project: int = 1,
    bucket: str = "s3://ocrpipeline",
    alphabet: str = "",
    height: int = 48,
    max_rejects: float = 0.2,
    sync: bool = True,
    epochs: int = 60,
    batch: int = 8,
    learning_rate: float = 1e-3,
    augmentation: float = 1.0,
    patience: int = 15,
    minutes: float = 0.0,
    seed: int = 0,
    hidden: int = 128,
    layers: int = 2,
    dropout: float = 0.2,
    start: str = "",
    language_model: bool = True,
    margin: float = 0.0,
    name: str = "handwriting",
    namespace: str = "kubeflow-user",
    mode: str = "Standard",
    image: str = BASE_IMAGE,
    min_replicas: int = 1,
    max_replicas: int = 3,
    canary: int = 10,
    smoke: bool = True,
    apply: bool = True,
) -> Outcome:
    """Trains a reader on what is labelled now, and deploys it if it reads better than the one that serves.

    Args:
        label_studio_url: Address of Label Studio.
        project: Number of the project.
        bucket: `s3://bucket` with the pictures under `data/`; datasets, models and runs go there too.
        alphabet: The characters, "" for the Vietnamese 207, or "labels" to take them from the training labels.
        height: Height of a line in px.
        max_rejects: Share of labelled pictures that may be rejected, 0 to 1.
        sync: Let Label Studio look for new pictures first.
        epochs: Passes over the training lines, at most.
        batch: Lines of a step.
        learning_rate: Rate at the start; it falls along half a cosine.
        augmentation: Strength of augmentation and splicing, 0 (none) to 1.
        patience: Epochs without a better validation CER after which training stops.
        minutes: Time limit of training; 0 for none.
        seed: Decides weights, order and augmentation.
        hidden: Units of each direction of each recurrent layer.
        layers: Recurrent layers.
        dropout: Share of features dropped while training.
        start: URI of a bundle to fine-tune, or of the bucket's `models` (the one that serves); "" for new weights.
        language_model: Read with a language model of the training labels: fewer errors, more time a line.
        margin: CER by which a new model must be better than the one that serves.
        name: Name of the InferenceService.
        namespace: Namespace of the InferenceService.
        mode: KServe's deployment mode, "Standard" or "Knative"; "RawDeployment" or "Serverless" up to KServe 0.15.
        image: Image of the predictor; Python 3.11 with pip.
        min_replicas: Fewest pods; 0 in Knative mode only.
        max_replicas: Most pods.
        canary: Percent of the requests that a new version gets before it has answered; Knative mode only.
        smoke: Ask the service itself for its version and one reading before it counts as deployed.
        apply: False makes the manifest only, on a machine without a cluster.

    Returns:
        model: URI of the candidate.
        cer: Its CER on the test lines.
        champion_cer: CER of the bundle that served before, on the same lines; 1.0 where there was none.
    """
    data = _with_secrets(preprocess(
        label_studio_url=label_studio_url, project=project, bucket=bucket, alphabet=alphabet, height=height,
        max_rejects=max_rejects, sync=sync), S3_SECRET, LABEL_STUDIO_SECRET)
    data.set_caching_options(False)  # Label Studio may hold new labels
    dataset = data.outputs["Output"]

    model = _with_secrets(train(
        dataset=dataset, bucket=bucket, epochs=epochs, batch=batch, learning_rate=learning_rate,
        augmentation=augmentation, patience=patience, minutes=minutes, seed=seed, hidden=hidden, layers=layers,
        dropout=dropout, start=start), S3_SECRET, COMET_SECRET)
    model.set_cpu_request("2").set_memory_request("4Gi").set_retry(num_retries=2)  # a retry goes on from the checkpoint

    scores = _with_secrets(evaluate(model=model.outputs["Output"], dataset=dataset, bucket=bucket,
                                    language_model=language_model), S3_SECRET)
    scores.set_caching_options(False)  # another champion may serve by now

    decision = promote(candidate=model.outputs["Output"], candidate_cer=scores.outputs["cer"],
                       champion=scores.outputs["champion"], champion_cer=scores.outputs["champion_cer"], margin=margin)

    # an output named otherwise than "Output" would silently count as false in a local run (kfp 2.17)
    with dsl.If(decision.outputs["Output"] == True, name="better"):  # noqa: E712  KFP needs the comparison
        service = _with_secrets(deploy(model=model.outputs["Output"], bucket=bucket, name=name, namespace=namespace,
                                       mode=mode, image=image, min_replicas=min_replicas, max_replicas=max_replicas,
                                       canary=canary, smoke=smoke, apply=apply, language_model=language_model),
                                S3_SECRET)
        service.set_caching_options(False)  # the cluster may have changed

    return Outcome(model.outputs["Output"], scores.outputs["cer"], scores.outputs["champion_cer"])
