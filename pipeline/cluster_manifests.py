"""The cluster's side as YAML: accounts and rights, secrets to fill in, and examples of a service and a Katib search.

The same parameters give the same bytes. There is nothing secret in them.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from handwriting import layout
from handwriting.experiment import GROUP as KATIB
from handwriting.experiment import TuneConfig, experiment
from handwriting.inference_service import GROUP, PLURAL, ServiceConfig, manifest
from handwriting.store import join
from handwriting.trainjob import GROUP as TRAINER
from handwriting.trainjob import PLURAL as TRAINJOBS
from pipeline.handwriting_pipeline import COMET_SECRET, LABEL_STUDIO_SECRET, S3_SECRET, SECRETS, handwriting_pipeline
from pipeline.katib import train_step

CLUSTER, SECRETS_FILE, SERVICE, EXPERIMENT = ("cluster.yaml", "secrets.yaml", "inferenceservice.yaml",
                                              "katib-experiment.yaml")
RULES = (
    {"apiGroups": [GROUP], "resources": [PLURAL], "verbs": ["get", "create", "update"]},
    {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    {"apiGroups": [KATIB], "resources": ["experiments"], "verbs": ["get", "create"]},
    {"apiGroups": [KATIB], "resources": ["trials"], "verbs": ["list"]},
    {"apiGroups": [TRAINER], "resources": [TRAINJOBS], "verbs": ["get", "create"]},
)
"""What `handwriting.cluster`, `handwriting.katib` and `handwriting.trainjob` ask of the API server, and no more."""
ROLE = "handwriting-deploy"
FILL_IN = "FILL-IN"
ENDPOINT, REGION = "minio-service.kubeflow:9000", "us-east-1"  # of the S3 server in Kubeflow Pipelines
VALUES = {"AWS_ENDPOINT_URL_S3": f"http://{ENDPOINT}", "AWS_DEFAULT_REGION": REGION, layout.TOKEN: ""}
EXAMPLE_VERSION = "VERSION"


@dataclass(frozen=True)
class ClusterConfig:
    """Who does what where.

    Attributes:
        namespace: Namespace of the service.
        pipeline_namespace: Namespace in which the pipeline's steps run; empty where it is the same.
        service_account: Service account of the steps: "pipeline-runner", in the profiles of a multi-user Kubeflow
            "default-editor".
    """

    namespace: str = ServiceConfig.namespace
    pipeline_namespace: str = ""
    service_account: str = "pipeline-runner"

    def __post_init__(self) -> None:
        ServiceConfig(namespace=self.namespace)  # the same rules hold
        ServiceConfig(namespace=self.steps_namespace, service_account=self.service_account)

    @property
    def steps_namespace(self) -> str:
        """Namespace in which the steps run."""
        return self.pipeline_namespace or self.namespace


class Document(NamedTuple):
    """One object, and what a reader should know of it."""

    comment: str
    content: dict[str, Any]


def write_cluster_files(folder: Path, config: ClusterConfig) -> list[Path]:
    """Writes CLUSTER, SECRETS_FILE, SERVICE and EXPERIMENT into a folder, which is made; returns their paths.

    Secrets that are there already stay as they are: somebody has filled them in.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {CLUSTER: cluster(config), SECRETS_FILE: secrets(config), SERVICE: [service(config)],
             EXPERIMENT: [search(config)]}
    for name, documents in files.items():
        if name != SECRETS_FILE or not (folder / name).exists():
            (folder / name).write_text(_as_yaml(documents), "utf-8")
    return [folder / name for name in files]


def cluster(config: ClusterConfig) -> list[Document]:
    """Returns the predictor's account and the rights of the deploy, the tune and the train step."""
    service_account = {
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": ServiceConfig.service_account, "namespace": config.namespace},
        "secrets": [{"name": ServiceConfig.secret}]}
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": ROLE, "namespace": config.namespace}, "rules": [dict(rule) for rule in RULES]}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": ROLE, "namespace": config.namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ROLE},
        "subjects": [{"kind": "ServiceAccount", "name": config.service_account, "namespace": config.steps_namespace}]}
    return [
        Document("Apply it as it is, as often as you like: it holds no values to fill in.\n"
                 "The predictor's account: with the secret it names, KServe fetches the model from S3.\n"
                 "Where nodes or accounts have a cloud role, remove the secret and annotate the account instead.",
                 service_account),
        Document("What the steps call, and no more; pods are listed to say why one does not start.", role),
        Document(f"These steps run as {config.service_account} in {config.steps_namespace}.\n"
                 "In the profiles of a multi-user Kubeflow that is default-editor:\n"
                 "python compile.py --namespace PROFILE --service-account default-editor", binding)]


def secrets(config: ClusterConfig) -> list[Document]:
    """Returns the secrets that the steps and the predictor read, without values."""
    places = sorted({config.namespace, config.steps_namespace})
    return [
        *(Document(_S3_COMMENT, _secret(S3_SECRET, place, _S3_ANNOTATIONS)) for place in places),
        Document("A personal access token (Label Studio: Account & Settings), or a legacy one.",
                 _secret(LABEL_STUDIO_SECRET, config.steps_namespace)),
        Document("Without this secret Comet logs into an offline archive: remove it unless you have a key.",
                 _secret(COMET_SECRET, config.steps_namespace)),
        *(Document(_TOKEN_COMMENT, _secret(layout.TOKEN_SECRET, place)) for place in places)]


_S3_COMMENT = f"""\
Fill in each {FILL_IN} in a copy outside the repository (compiling writes this file anew), and apply that once.
Remove what you do not need: each secret may be absent.
The bucket. Steps and predictor take the keys; KServe's storage initializer takes keys and annotations, which must
name the same endpoint, without http://. Here it is the server that Kubeflow Pipelines brings (MinIO, SeaweedFS
from 2.15 on). Your own: MinIO minio.NAMESPACE:9000, SeaweedFS seaweedfs-s3.NAMESPACE:8333,
both with s3-usehttps "0"; AWS: s3.amazonaws.com with "1", and no AWS_ENDPOINT_URL_S3."""
_TOKEN_COMMENT = """\
What the predictor wants as bearer token of those who send pictures, and what the deploy step sends.
Empty: anybody who reaches it may ask. Else a long random one, as `openssl rand -hex 32` makes it."""
_S3_ANNOTATIONS = {f"{GROUP}/s3-endpoint": ENDPOINT, f"{GROUP}/s3-usehttps": "0", f"{GROUP}/s3-region": REGION}


def _secret(name: str, namespace: str, annotations: dict[str, str] | None = None) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace} | ({"annotations": annotations} if annotations else {}),
            "type": "Opaque", "stringData": {key: VALUES.get(key, FILL_IN) for key in SECRETS[name]}}


def service(config: ClusterConfig) -> Document:
    """Returns the InferenceService that the deploy step would make of a bundle named EXAMPLE_VERSION."""
    bucket = _default("bucket")
    uri = join(bucket, layout.MODELS, EXAMPLE_VERSION)
    settings = ServiceConfig(namespace=config.namespace, data_uri=join(bucket, layout.DATA))
    return Document(
        f"An example: what the deploy step applies. Put a version of the bucket in place of each {EXAMPLE_VERSION},\n"
        "and a folder of its code/ in place of CODE, or let the same come out with other settings:\n"
        f"python -m pipeline manifest --model-uri {uri} --mode Knative | kubectl apply -f -\n"
        "The bundle must have its code and wheels: from the deploy step, or from\n"
        f"python -m pipeline wheels --model {uri}",
        manifest(uri, f"{EXAMPLE_VERSION}-CODE", settings))


def search(config: ClusterConfig) -> Document:
    """Returns a Katib Experiment over the newest dataset of the bucket."""
    bucket = _default("bucket")
    arguments = {"dataset": join(bucket, layout.DATASETS), "bucket": join(bucket, layout.TUNING),
                 "epochs": _default("epochs"), "patience": _default("patience")}
    secrets = {name: SECRETS[name] for name in (S3_SECRET, COMET_SECRET)}
    return Document(
        "A search for better hyperparameters, to apply by hand: kubectl apply -f, then watch it in Katib's UI.\n"
        f"Its trials run the pipeline's own train step, and their models go to {arguments['bucket']}.\n"
        "Give the best values to the pipeline as parameters of the same names.",
        experiment("handwriting", config.steps_namespace, train_step(), arguments, TuneConfig(), secrets,
                   config.service_account))


def _default(parameter: str) -> Any:
    return inspect.signature(handwriting_pipeline.pipeline_func).parameters[parameter].default


def _as_yaml(documents: Sequence[Document]) -> str:
    return "---\n".join("".join(f"# {line}\n" for line in comment.splitlines())
                        + yaml.safe_dump(content, sort_keys=False, width=10_000)  # the command stays one line
                        for comment, content in documents)
