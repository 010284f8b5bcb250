"""The KServe InferenceService that serves one model: its manifest, and how it gets into the cluster.

The container's command needs nothing but Python and the bundle, so the local run starts the very same line.
"""

import json
import os
import re
from dataclasses import dataclass
from typing import Any

from handwriting.errors import ConfigError, DeployError

GROUP, API_VERSION, PLURAL = "serving.kserve.io", "v1beta1", "inferenceservices"
PORT = 8080
MODES = ("Standard", "Knative")
SECRET_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3")
STARTUP_SECONDS = 900  # pip downloads about 150 MB before the server starts
TERMINATION_SECONDS = 45  # the server takes up to 30 for running requests and waiting pictures
MAX_NAME = 47  # KServe and Knative append up to 16 characters ("-predictor-00001") to make a label of at most 63
ATTEMPTS = 5  # writes tried when others change the same object
TIMEOUT = 30  # seconds for one call of the cluster's API

COMMAND = "; ".join([
    "set -e",
    # named by the checksum of its pins: other pins get another folder. No dollar-parenthesis: Kubernetes expands it.
    'set -- `cksum < "$STORAGE_URI/requirements.txt"`',
    'SITE="${SITE_ROOT:-/tmp}/handwriting-site-$1-$2"',
    # -P: neither pip nor the server may import modules from whatever the working folder is
    'if ! test -f "$SITE/.complete"; then rm -rf "$SITE"; '
    'python -P -m pip install --quiet --disable-pip-version-check --no-warn-conflicts --target "$SITE" '
    '-r "$STORAGE_URI/requirements.txt"; mkdir -p "$SITE"; touch "$SITE/.complete"; fi',
    'export PYTHONPATH="$STORAGE_URI/code:$SITE"',
    'exec python -P -m handwriting.serving --model "$STORAGE_URI" --port "${PORT:-%d}"' % PORT,
])
"""Installs the bundle's exact pins once, then serves it.

Reads `STORAGE_URI` (the bundle's folder; in a pod KServe has put it there), `PORT` and, for a cache elsewhere than
`/tmp`, `SITE_ROOT`. `DATA_URI` and the S3 credentials are read by the server.
"""

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(rf"{_LABEL.pattern}(\.{_LABEL.pattern})*")
_VERSION = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")


@dataclass(frozen=True)
class ServiceConfig:
    """How a model is served.

    Attributes:
        name: Name of the service.
        namespace: Namespace of the service.
        image: Image of the predictor; Python 3.11 or newer with pip.
        service_account: Service account whose `secrets` let KServe download the model.
        mode: "Standard" (a Deployment) or "Knative"; a service keeps it for its whole life.
        min_replicas: Fewest pods; 0 in Knative mode only.
        max_replicas: Most pods.
        canary_percent: Percent of the requests for the new version, the others go to the old one; Knative mode only.
        cpu: Cores of a pod, as a Kubernetes quantity.
        memory: Memory of a pod, as a Kubernetes quantity.
        data_uri: `s3://` URI below which users' pictures are kept; empty keeps none.
        secret: Secret with the predictor's own S3 credentials; it may be absent.
    """

    name: str = "handwriting"
    namespace: str = "kubeflow-user"
    image: str = "python:3.11-slim"
    service_account: str = "handwriting"
    mode: str = "Standard"
    min_replicas: int = 1
    max_replicas: int = 3
    canary_percent: int | None = None
    cpu: str = "1"
    memory: str = "2Gi"
    data_uri: str = ""
    secret: str = "handwriting-s3"

    def __post_init__(self) -> None:
        self._check_names()
        self._check_scale()
        _check_match("image", self.image, re.compile(r"\S+"))
        _check_match("cpu", self.cpu, _QUANTITY)
        _check_match("memory", self.memory, _QUANTITY)
        if self.data_uri:
            _check_match("data_uri", self.data_uri, re.compile(r"s3://[^\s/]+(/\S*)?"))

    def _check_names(self) -> None:
        _check_match("name", self.name, re.compile(rf"(?=[a-z]){_LABEL.pattern}"), MAX_NAME)
        _check_match("namespace", self.namespace, _LABEL, 63)
        _check_match("service_account", self.service_account, _SUBDOMAIN, 253)
        _check_match("secret", self.secret, _SUBDOMAIN, 253)

    def _check_scale(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"mode {self.mode!r}: choose one of {', '.join(MODES)}")
        least = 0 if self.mode == "Knative" else 1
        if not least <= self.min_replicas <= self.max_replicas or self.max_replicas < 1:
            raise ConfigError(f"min_replicas {self.min_replicas}, max_replicas {self.max_replicas}: {self.mode} mode "
                              f"needs {least} <= min_replicas <= max_replicas and at least one replica")
        if self.canary_percent is None:
            return
        if self.mode != "Knative" or not 0 <= self.canary_percent <= 100:
            raise ConfigError(f"canary_percent {self.canary_percent}: give 0 to 100, in Knative mode only")


def _check_match(field: str, value: str, pattern: re.Pattern, longest: int = 1000) -> None:
    if not pattern.fullmatch(value) or len(value) > longest:
        raise ConfigError(f"{field} {value!r} must match {pattern.pattern} and have at most {longest} characters")


def manifest(model_uri: str, version: str, config: ServiceConfig) -> dict:
    """Returns the InferenceService that serves one version of the model.

    Args:
        model_uri: URI of the bundle, one that no other version ever has: the same URI twice would roll nothing out.
        version: The bundle's version.
        config: How to serve it.

    Raises:
        ConfigError: The URI or the version cannot be used.
    """
    _check_match("model_uri", model_uri, re.compile(r"[a-z0-9]+://\S+"))
    _check_match("version", version, _VERSION)
    knative = config.mode == "Knative"
    labels = {"app.kubernetes.io/name": config.name, "app.kubernetes.io/version": version}
    predictor: dict[str, Any] = {
        "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": str(PORT),
                        "prometheus.io/path": "/metrics"},
        "labels": labels,
        "serviceAccountName": config.service_account,
        "minReplicas": config.min_replicas, "maxReplicas": config.max_replicas,
        "containers": [_container(model_uri, version, config)],
    }
    if not knative:  # Knative refuses the field and has its own, longer time-out
        predictor["terminationGracePeriodSeconds"] = TERMINATION_SECONDS
    if config.canary_percent is not None:
        predictor["canaryTrafficPercent"] = config.canary_percent
    return {
        "apiVersion": f"{GROUP}/{API_VERSION}", "kind": "InferenceService",
        "metadata": {"name": config.name, "namespace": config.namespace, "labels": labels,
                     "annotations": {"serving.kserve.io/deploymentMode": config.mode}},
        "spec": {"predictor": predictor},
    }


def _container(model_uri: str, version: str, config: ServiceConfig) -> dict:
    resources = {"cpu": config.cpu, "memory": config.memory}
    return {
        "name": "kserve-container", "image": config.image,
        "command": ["sh", "-c", COMMAND],
        "env": _environment(model_uri, version, config),
        "ports": [{"containerPort": PORT, "protocol": "TCP"}],
        "resources": {"requests": resources, "limits": dict(resources)},
        "startupProbe": _probe("/healthz", period=5, failures=STARTUP_SECONDS // 5),
        "readinessProbe": _probe("/readyz", period=5, failures=3),
        "livenessProbe": _probe("/healthz", period=10, failures=6),
    }


def _environment(model_uri: str, version: str, config: ServiceConfig) -> list[dict]:
    """No `PORT` here: Knative sets it itself and refuses a service that does."""
    plain = {
        "STORAGE_URI": model_uri.rstrip("/") + "/",  # KServe lists by prefix: without the slash v1 also fetches v10
        "MODEL_VERSION": version, "DATA_URI": config.data_uri,
        "HOME": "/tmp",  # where pip and caches may write, whatever user the pod runs as
    }
    secret = [{"name": key, "valueFrom": {"secretKeyRef": {"name": config.secret, "key": key, "optional": True}}}
              for key in SECRET_KEYS]
    return [{"name": name, "value": value} for name, value in plain.items() if value] + secret


def _probe(path: str, period: int, failures: int) -> dict:
    return {"httpGet": {"path": path, "port": PORT}, "periodSeconds": period, "timeoutSeconds": 5,
            "failureThreshold": failures}


def apply(manifest: dict) -> None:
    """Creates or replaces the service in the cluster this process belongs to, else in the one of the kubeconfig.

    What others have put on the object (labels, annotations, finalizers) stays. It does not wait for the rollout.

    Raises:
        DeployError: There is no cluster, it cannot be reached, or it refuses the service.
    """
    from kubernetes.client import ApiException, CustomObjectsApi
    from urllib3.exceptions import HTTPError

    with _client() as client:
        api = CustomObjectsApi(client)
        for _ in range(ATTEMPTS):
            try:
                return _write(api, manifest)
            except ApiException as error:
                if error.status != 409:
                    raise _explain(error, manifest) from error
            except HTTPError as error:
                raise DeployError(f"the cluster at {client.configuration.host} does not answer ({error}); "
                                  "check the network and the kubeconfig") from error
    raise DeployError(f"{_where(manifest)} was changed by others {ATTEMPTS} times in a row; try again")


def _client() -> Any:
    """Returns an ApiClient with the configuration of the pod, else of the kubeconfig, leaving global state alone."""
    from kubernetes import client, config
    from yaml import YAMLError

    configuration = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        try:
            # asked now: the client has read the variable when it was first imported
            config.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=configuration)
        except (config.ConfigException, YAMLError, OSError) as error:
            raise DeployError(f"no cluster to deploy to ({error}); run this step in the cluster or set KUBECONFIG "
                              "to a kubeconfig file") from error
    return client.ApiClient(configuration)


def _write(api: Any, manifest: dict) -> None:
    """One GET and one write; 409 where others were faster."""
    from kubernetes.client import ApiException

    name = manifest["metadata"]["name"]
    place = (GROUP, API_VERSION, manifest["metadata"]["namespace"], PLURAL)
    try:
        existing = api.get_namespaced_custom_object(*place, name, _request_timeout=TIMEOUT)
    except ApiException as error:
        if error.status != 404:
            raise
        api.create_namespaced_custom_object(*place, manifest, _request_timeout=TIMEOUT)
    else:
        api.replace_namespaced_custom_object(*place, name, _merge(existing, manifest), _request_timeout=TIMEOUT)


def _merge(existing: dict, manifest: dict) -> dict:
    """Returns our manifest with the identity, version and foreign metadata of the existing object."""
    metadata = {key: value for key, value in existing["metadata"].items() if key != "managedFields"}
    for field in ("labels", "annotations"):
        metadata[field] = (metadata.get(field) or {}) | manifest["metadata"][field]
    return manifest | {"metadata": metadata}


def _where(manifest: dict) -> str:
    return f"InferenceService {manifest['metadata']['namespace']}/{manifest['metadata']['name']}"


def _explain(error: Any, manifest: dict) -> DeployError:
    """Turns an ApiException into what the user can do about it."""
    namespace = manifest["metadata"]["namespace"]
    advice = {
        401: "the cluster does not accept these credentials; renew them",
        403: f"bind a Role with get, create and update on {PLURAL}.{GROUP} in the namespace {namespace} "
             "to the step's service account",
        404: f"the namespace {namespace} or KServe itself is not there; create the one or install the other",
    }.get(error.status, "correct the parameters, or look at KServe's controller")
    return DeployError(f"{_where(manifest)}: {error.status} {_message(error)}; {advice}")


def _message(error: Any) -> str:
    """Returns the API server's own sentence, without the headers that ApiException prints."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason or "no reason given").strip()
