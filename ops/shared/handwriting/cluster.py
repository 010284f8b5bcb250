"""The cluster's API, as far as we need it: InferenceServices are read and written, other objects made and read.

It talks through the bare `kubernetes` client: kserve's own wraps every error in RuntimeError, its patch leaves stale
fields behind, its watch returns without a word on time-out, and it takes twice as long to install.
"""

import json
import logging
import os
import re
import time
from typing import Any, Self

from handwriting.errors import DeployError
from handwriting.inference_service import API_VERSION, CANARY_FIELD, GROUP, PLURAL

log = logging.getLogger(__name__)

ATTEMPTS = 5  # writes tried when others change the same object
TIMEOUT = 30  # seconds for one call
AWAY_SECONDS = 120.0  # how long an API server may be away: an upgrade of the control plane takes about a minute
PAUSE = 1.0  # seconds between two tries to reach it, doubled up to LONGEST_PAUSE
LONGEST_PAUSE = 15.0
PASSING = {429, 500, 502, 503, 504}  # answers that another try may better
HEADERS = {"Accept": "application/json", "Content-Type": "application/json"}
SELECTOR = "serving.kserve.io/inferenceservice"  # label of a service's pods
PAIRED = ("labels", "annotations")


class Cluster:
    """The cluster this process belongs to, else the one of the kubeconfig."""

    def __init__(self, client: Any):
        self.client = client

    @classmethod
    def connect(cls) -> Self:
        """Opens a client, leaving the library's global configuration alone.

        Raises:
            DeployError: There is no cluster to talk to.
        """
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
        return cls(client.ApiClient(configuration))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        self.client.close()

    def service(self, namespace: str, name: str) -> dict | None:
        """Returns an InferenceService, None where there is none."""
        return self.get(f"{_services(namespace)}/{name}")

    def deployment(self, namespace: str, name: str) -> dict | None:
        """Returns a Deployment, None where there is none."""
        return self.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}")

    def pods(self, namespace: str, service: str) -> list[dict]:
        """Returns the pods of an InferenceService."""
        found = self.get(f"/api/v1/namespaces/{namespace}/pods", labelSelector=f"{SELECTOR}={service}")
        return (found or {}).get("items", [])

    def apply(self, manifest: dict) -> bool:
        """Creates or replaces an InferenceService; what others put on it (labels, annotations, finalizers) stays.

        Returns:
            False where it was so already and nothing was written.

        Raises:
            DeployError: The cluster refuses it, cannot be reached, or others change it all the time.
        """
        from kubernetes.client import ApiException

        for _ in range(ATTEMPTS):
            try:
                return self._write(manifest)
            except ApiException as error:
                if error.status != 409:  # else others were faster: read again
                    raise _explain(error, where(manifest), manifest["metadata"]["namespace"]) from error
        raise DeployError(f"{where(manifest)} was changed by others {ATTEMPTS} times in a row; try again")

    def _write(self, manifest: dict) -> bool:
        """One GET and at most one write; 409 where others were faster."""
        metadata = manifest["metadata"]
        existing = self.service(metadata["namespace"], metadata["name"])
        if existing is None:
            self._call("POST", _services(metadata["namespace"]), manifest)
        elif not is_so(existing, manifest):
            self._call("PUT", f"{_services(metadata['namespace'])}/{metadata['name']}", _merge(existing, manifest))
        else:
            return False
        return True

    def get(self, path: str, **query: str) -> dict | None:
        """Returns the object or list at a path, None where there is none.

        Raises:
            DeployError: The cluster refuses it or cannot be reached.
        """
        from kubernetes.client import ApiException

        try:
            return self._call("GET", path, query=query)
        except ApiException as error:
            if error.status == 404:
                return None
            raise _explain(error, path, _namespace_of(path)) from error

    def create(self, path: str, body: dict) -> bool:
        """Makes an object in the list at a path; False where one of that name is there already.

        Raises:
            DeployError: The cluster refuses it or cannot be reached.
        """
        from kubernetes.client import ApiException

        try:
            self._call("POST", path, body)
        except ApiException as error:
            if error.status == 409:
                return False
            raise _explain(error, path, _namespace_of(path)) from error
        return True

    def _call(self, method: str, path: str, body: dict | None = None, query: dict[str, str] | None = None) -> Any:
        """One call; an API server that is away for a while is waited for.

        A write that is sent twice does no harm: the second one meets 409, and is then found to be so already.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        end, pause = time.monotonic() + AWAY_SECONDS, PAUSE
        while True:
            try:
                return self.client.call_api(path, method, query_params=list((query or {}).items()), body=body,
                                            header_params=dict(HEADERS), response_type="object",
                                            auth_settings=["BearerToken"], _return_http_data_only=True,
                                            _request_timeout=TIMEOUT)
            except ApiException as error:
                if error.status not in PASSING or time.monotonic() + pause > end:
                    raise
                fault: Exception = error
            except HTTPError as error:
                if time.monotonic() + pause > end:
                    raise DeployError(f"the cluster at {self.client.configuration.host} does not answer ({error}); "
                                      "check the network and the kubeconfig") from error
                fault = error
            log.warning("the cluster does not answer (%s); trying again in %.0f s", _brief(fault), pause)
            time.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)


def where(manifest: dict) -> str:
    """Names an InferenceService in messages."""
    return f"InferenceService {manifest['metadata']['namespace']}/{manifest['metadata']['name']}"


def _namespace_of(path: str) -> str:
    parts = path.split("/")
    return parts[parts.index("namespaces") + 1]


def _services(namespace: str) -> str:
    return f"/apis/{GROUP}/{API_VERSION}/namespaces/{namespace}/{PLURAL}"


def is_so(existing: dict, manifest: dict) -> bool:
    """Says whether an object has all of a manifest already; what the cluster's defaults added does not count."""
    predictors = (existing["spec"]["predictor"], manifest["spec"]["predictor"])
    return (  # without a share for the canary all requests go to it, so its absence counts
            predictors[0].get(CANARY_FIELD) == predictors[1].get(CANARY_FIELD)
            and _covers(existing["spec"], manifest["spec"])
            and all(_covers(existing["metadata"].get(kind) or {}, manifest["metadata"][kind]) for kind in PAIRED))


def _covers(existing: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(existing, dict) and all(
            key in existing and _covers(existing[key], value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return (isinstance(existing, list) and len(existing) == len(wanted)
                and all(map(_covers, existing, wanted)))
    return bool(existing == wanted)


def _merge(existing: dict, manifest: dict) -> dict:
    """Returns our manifest with the identity, version and foreign metadata of the existing object."""
    metadata = {key: value for key, value in existing["metadata"].items() if key != "managedFields"}
    for kind in PAIRED:
        metadata[kind] = (metadata.get(kind) or {}) | manifest["metadata"][kind]
    return manifest | {"metadata": metadata}


def _explain(error: Any, place: str, namespace: str) -> DeployError:
    """Turns an ApiException into what the user can do about it."""
    advice = {
        401: "the cluster does not accept these credentials; renew them",
        403: f"give the step's service account the Roles of build/cluster.yaml in the namespace {namespace}",
        404: f"the namespace {namespace}, or the controller of such objects, is not there; create the one or install "
             "the other",
    }.get(error.status, "correct the parameters, or look at KServe's controller")
    message = _message(error)
    if re.search("deployment ?mode", message, re.IGNORECASE):
        advice = "KServe up to 0.15 calls the modes RawDeployment and Serverless, later ones Standard and Knative"
    return DeployError(f"{place}: {error.status} {message}; {advice}")


def _message(error: Any) -> str:
    """Returns the API server's own sentence, without the headers that ApiException prints."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason or "no reason given").strip()


def _brief(error: Any) -> str:
    return f"{error.status} {_message(error)}" if hasattr(error, "status") else type(error).__name__
