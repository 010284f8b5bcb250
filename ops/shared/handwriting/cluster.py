"""The cluster's API, as far as we need it: InferenceServices are read and written, other objects made and read."""

import re
from typing import Any

from handwriting.api_server import ApiServer, explain, message_of
from handwriting.errors import DeployError
from handwriting.inference_service import API_VERSION, CANARY_FIELD, GROUP, PLURAL

ATTEMPTS = 5  # writes tried when others change the same object
SELECTOR = "serving.kserve.io/inferenceservice"  # label of a service's pods
PAIRED = ("labels", "annotations")


class Cluster(ApiServer):
    """The cluster this process belongs to, else the one of the kubeconfig."""

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
                    raise _explain(error, manifest) from error
        raise DeployError(f"{where(manifest)} was changed by others {ATTEMPTS} times in a row; try again")

    def _write(self, manifest: dict) -> bool:
        """One GET and at most one write; 409 where others were faster."""
        metadata = manifest["metadata"]
        existing = self.service(metadata["namespace"], metadata["name"])
        if existing is None:
            self.call("POST", _services(metadata["namespace"]), manifest)
        elif not is_so(existing, manifest):
            self.call("PUT", f"{_services(metadata['namespace'])}/{metadata['name']}", _merge(existing, manifest))
        else:
            return False
        return True


def where(manifest: dict) -> str:
    """Names an InferenceService in messages."""
    return f"InferenceService {manifest['metadata']['namespace']}/{manifest['metadata']['name']}"


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


def _explain(error: Any, manifest: dict) -> DeployError:
    """Turns KServe's refusal into what the user can do about it."""
    advice = ""
    if re.search("deployment ?mode", message_of(error), re.IGNORECASE):
        advice = "KServe up to 0.15 calls the modes RawDeployment and Serverless, later ones Standard and Knative"
    return explain(error, where(manifest), manifest["metadata"]["namespace"], advice)
