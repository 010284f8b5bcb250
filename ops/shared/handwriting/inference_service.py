"""The manifest of the KServe InferenceService that serves one model.

The container's command needs nothing but Python and the bundle, so the local run starts the very same line.
"""

import re
from dataclasses import dataclass
from typing import Any

from handwriting.errors import ConfigError
from handwriting.layout import (BACKEND_PASSWORD, CODE, KEEP_SHARE_VARIABLE, LANGUAGE_MODEL_VARIABLE, SPOOL_VARIABLE,
                                TOKEN, TOKEN_SECRET, VERSION_VARIABLE, WHEELS)
from handwriting.pods import secret_variables

GROUP, API_VERSION, PLURAL = "serving.kserve.io", "v1beta1", "inferenceservices"
PORT = 8080
MODE_ANNOTATION = f"{GROUP}/deploymentMode"
TAG_ANNOTATION = f"{GROUP}/enable-tag-routing"
MODES = ("Standard", "Knative", "RawDeployment", "Serverless")  # KServe up to 0.15 knows the last two names only
KNATIVE_MODES = ("Knative", "Serverless")
CANARY_FIELD = "canaryTrafficPercent"
BACKEND_SECRET = "handwriting-ml-backend"  # may be absent: then Label Studio needs no password
SECRET_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # machines that wheels are made for, and Kubernetes' names
STARTUP_SECONDS = 240  # it takes 4 on two cores; on a busy node with a slow disk far longer
TERMINATION_SECONDS = 45  # the server takes up to 30 for running requests and waiting pictures
SPOOL = "/spool"  # outlives the container, not the pod; Knative reserves /tmp and /var
MAX_NAME = 46  # Knative makes labels of at most 63 characters of it: "latest-" + name + "-predictor"

# No dollar-parenthesis: Kubernetes expands it. -P: nothing may be imported from whatever the working folder is.
_CODE = f'CODE="$STORAGE_URI/{CODE}/${{{VERSION_VARIABLE}##*-}}"'  # a release is named `<version>-<code>`
_INSTALL = [
    "set -e",
    "set -- `python -P -c 'import platform, sys; "
    'print("cp%d%d-%s-%s" % (*sys.version_info[:2], sys.platform, platform.machine()))\'`',
    f'WHEELS="$STORAGE_URI/{WHEELS}/$1"; LOCK="$CODE/$1.txt"',
    'if ! test -f "$LOCK"; then echo "this bundle has no wheels for $1: deploy it for the Python '
    'and machine of this image, or with install false for an image that has the packages" >&2; exit 1; fi',
    # named by the checksum of its pins: other pins get another folder
    'set -- `cksum < "$LOCK"`',
    'SITE="${SITE_ROOT:-/tmp}/handwriting-site-$1-$2"',
    # nothing to resolve, since the lock names all packages; and of their modules those that are used get compiled
    'if ! test -f "$SITE/.complete"; then rm -rf "$SITE"; '
    'python -P -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --require-hashes '
    '--only-binary :all: --find-links "$WHEELS" --target "$SITE" -r "$LOCK"; '
    'mkdir -p "$SITE"; touch "$SITE/.complete"; fi',
    'export PYTHONPATH="$CODE:$SITE"',
]
_USE_THE_IMAGE = ['export PYTHONPATH="$CODE"']
_SERVE = 'exec python -P -m handwriting.serving --model "$STORAGE_URI" --port "${PORT:-%d}"' % PORT

_SECURITY = {  # what namespaces under the Pod Security Standard "restricted" ask for; 1000 is nobody in particular
    "runAsNonRoot": True, "runAsUser": 1000, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"}}

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(rf"{_LABEL.pattern}(\.{_LABEL.pattern})*")
_RELEASE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")


@dataclass(frozen=True)
class ServiceConfig:
    """How a model is served.

    Attributes:
        name: Name of the service.
        namespace: Namespace of the service.
        image: Image of the predictor; with `install` it needs `python`, pip and glibc, else all packages.
        python: Version of Python in the image, for which the bundle gets wheels.
        machine: Machine of the image: "x86_64" or "aarch64".
        install: Install the wheels of the bundle; False for an image that has the packages.
        language_model: Read by beam search with the bundle's language model.
        service_account: Service account whose `secrets` let KServe download the model.
        mode: "Standard" (a Deployment) or "Knative", "RawDeployment" or "Serverless" for KServe up to 0.15; a service
            keeps it for its whole life.
        min_replicas: Fewest pods; 0 in Knative mode only.
        max_replicas: Most pods.
        canary_percent: Percent of the requests for the new version, the others go to the old one; Knative mode only.
        cpu: Cores of a pod, as a Kubernetes quantity.
        memory: Memory of a pod, as a Kubernetes quantity.
        data_uri: `s3://` URI below which users' pictures are kept; empty keeps none.
        keep_share: Share of them to keep, 0 to 1.
        secret: Secret with the predictor's own S3 credentials; it may be absent.
    """

    name: str = "handwriting"
    namespace: str = "kubeflow-user"
    image: str = "python:3.11-slim"
    python: str = "3.11"
    machine: str = "x86_64"
    install: bool = True
    language_model: bool = True
    service_account: str = "handwriting"
    mode: str = "Standard"
    min_replicas: int = 1
    max_replicas: int = 3
    canary_percent: int | None = None
    cpu: str = "1"
    memory: str = "2Gi"
    data_uri: str = ""
    keep_share: float = 1.0
    secret: str = "handwriting-s3"

    def __post_init__(self) -> None:
        self._check_names()
        self._check_scale()
        _check_match("image", self.image, re.compile(r"\S+"))
        _check_match("python", self.python, re.compile(r"3\.(1[1-9]|[2-9][0-9])"))
        _check_match("machine", self.machine, re.compile("|".join(ARCHITECTURES)))
        _check_match("cpu", self.cpu, _QUANTITY)
        _check_match("memory", self.memory, _QUANTITY)
        if self.data_uri:
            _check_match("data_uri", self.data_uri, re.compile(r"s3://[^\s/]+(/\S*)?"))
        if not 0 <= self.keep_share <= 1:
            raise ConfigError(f"keep_share {self.keep_share}: give 0 to 1")

    def _check_names(self) -> None:
        _check_match("name", self.name, re.compile(rf"(?=[a-z]){_LABEL.pattern}"), MAX_NAME)
        _check_match("namespace", self.namespace, _LABEL, 63)
        _check_match("service_account", self.service_account, _SUBDOMAIN, 253)
        _check_match("secret", self.secret, _SUBDOMAIN, 253)

    def _check_scale(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"mode {self.mode!r}: choose one of {', '.join(MODES)}")
        knative = self.mode in KNATIVE_MODES
        least = 0 if knative else 1
        if not least <= self.min_replicas <= self.max_replicas or self.max_replicas < 1:
            raise ConfigError(f"min_replicas {self.min_replicas}, max_replicas {self.max_replicas}: {self.mode} mode "
                              f"needs {least} <= min_replicas <= max_replicas and at least one replica")
        if self.canary_percent is None:
            return
        if not knative or not 0 <= self.canary_percent <= 100:
            raise ConfigError(f"canary_percent {self.canary_percent}: give 0 to 100, in Knative mode only")


def _check_match(field: str, value: str, pattern: re.Pattern, longest: int = 1000) -> None:
    if not pattern.fullmatch(value) or len(value) > longest:
        raise ConfigError(f"{field} {value!r} must match {pattern.pattern} and have at most {longest} characters")


def manifest(model_uri: str, release: str, config: ServiceConfig) -> dict:
    """Returns the InferenceService that serves one version of the model by one version of the code.

    Args:
        model_uri: URI of the bundle.
        release: `<bundle's version>-<digest of the code>`, what `handwriting.release.name` gives; another one replaces
            the pods, and a rollout knows them by it.
        config: How to serve it.

    Raises:
        ConfigError: The URI or the release cannot be used.
    """
    _check_match("model_uri", model_uri, re.compile(r"[a-z0-9]+://\S+"))
    _check_match("release", release, _RELEASE)
    labels = {"app.kubernetes.io/name": config.name, "app.kubernetes.io/version": release}
    predictor: dict[str, Any] = {
        "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": str(PORT),
                        "prometheus.io/path": "/metrics"},
        "labels": dict(labels),
        "serviceAccountName": config.service_account,
        "minReplicas": config.min_replicas, "maxReplicas": config.max_replicas,
        "containers": [_container(model_uri, release, config)],
    }
    if config.data_uri:
        # no sizeLimit: Kubernetes would evict the pod, and all that waits with it; the server has a bound of its own
        predictor["volumes"] = [{"name": "spool", "emptyDir": {}}]
    annotations = {MODE_ANNOTATION: config.mode}
    if config.mode in KNATIVE_MODES:
        # The newest revision gets an address of its own, by which a canary is asked. Not with a canary alone: KServe
        # copies the annotation into the revision's template, so another value at the end of it would start a new one.
        annotations[TAG_ANNOTATION] = "true"
    else:
        predictor |= _for_pods(config)
    if config.canary_percent is not None:
        predictor[CANARY_FIELD] = config.canary_percent
    return {
        "apiVersion": f"{GROUP}/{API_VERSION}", "kind": "InferenceService",
        "metadata": {"name": config.name, "namespace": config.namespace, "labels": labels, "annotations": annotations},
        "spec": {"predictor": predictor},
    }


def _for_pods(config: ServiceConfig) -> dict:
    """Returns fields of the pods that Knative refuses: it ends them in its own time, and on any node."""
    nodes = {"nodeSelector": {"kubernetes.io/arch": ARCHITECTURES[config.machine]}} if config.install else {}
    return {"terminationGracePeriodSeconds": TERMINATION_SECONDS, **nodes}


def command(install: bool = True) -> list[str]:
    """Returns the container's command: it installs the bundle's wheels once, without an index, and serves the bundle.

    It reads `STORAGE_URI` (the bundle's folder; in a pod KServe has put it there), `MODEL_VERSION` (the release, whose
    end names the code), `PORT` and, for a cache elsewhere than `/tmp`, `SITE_ROOT`. The server reads
    `MODEL_NAME`, `DATA_URI`, `SPOOL`, `KEEP_SHARE`, `LANGUAGE_MODEL` and the S3 credentials.

    Args:
        install: False uses the packages of the image.
    """
    return ["sh", "-c", "; ".join([_CODE, *(_INSTALL if install else _USE_THE_IMAGE), _SERVE])]


def is_knative(manifest: dict) -> bool:
    """Says whether a manifest asks for Knative mode, by its name of today or of KServe up to 0.15."""
    return manifest["metadata"]["annotations"][MODE_ANNOTATION] in KNATIVE_MODES


def _container(model_uri: str, release: str, config: ServiceConfig) -> dict:
    resources = {"cpu": config.cpu, "memory": config.memory}
    mounts = {"volumeMounts": [{"name": "spool", "mountPath": SPOOL}]} if config.data_uri else {}
    return {
        "name": "kserve-container", "image": config.image, **mounts,
        "command": command(config.install),
        "env": _environment(model_uri, release, config),
        "ports": [{"containerPort": PORT, "protocol": "TCP"}],
        "securityContext": _SECURITY,
        # a server that cannot start says why on its last lines; so the pod's status, and the deploy step, tell it
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": {"requests": resources, "limits": dict(resources)},
        "startupProbe": _probe("/healthz", period=2, failures=STARTUP_SECONDS // 2),  # often: a request may wait
        "readinessProbe": _probe("/readyz", period=5, failures=3),
        "livenessProbe": _probe("/healthz", period=10, failures=6),
    }


def _environment(model_uri: str, release: str, config: ServiceConfig) -> list[dict]:
    """No `PORT` here: Knative sets it itself and refuses a service that does."""
    plain = {
        "STORAGE_URI": model_uri.rstrip("/") + "/",  # KServe lists by prefix: without the slash v1 also fetches v10
        VERSION_VARIABLE: release, "MODEL_NAME": config.name, "DATA_URI": config.data_uri,
        SPOOL_VARIABLE: SPOOL if config.data_uri else "",
        KEEP_SHARE_VARIABLE: str(config.keep_share) if config.data_uri and config.keep_share < 1 else "",
        LANGUAGE_MODEL_VARIABLE: "yes" if config.language_model else "",
        "HOME": "/tmp",  # where pip and caches may write, whatever user the pod runs as
    }
    return [*({"name": name, "value": value} for name, value in plain.items() if value),
            *secret_variables(config.secret, SECRET_KEYS), *secret_variables(BACKEND_SECRET, [BACKEND_PASSWORD]),
            *secret_variables(TOKEN_SECRET, [TOKEN])]


def _probe(path: str, period: int, failures: int) -> dict:
    return {"httpGet": {"path": path, "port": PORT}, "periodSeconds": period, "timeoutSeconds": 5,
            "failureThreshold": failures}
