"""Pieces that several manifests have."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

GPU = "nvidia.com/gpu"
NO_SIDECAR = {"sidecar.istio.io/inject": "false"}  # it would outlive the pod's work, which then never completes


def secret_variables(secret: str, keys: Iterable[str]) -> list[dict]:
    """Returns a container's variables of the same names as a secret's keys; absent where the secret is."""
    return [{"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key, "optional": True}}}
            for key in keys]


def step_variables(secrets: Mapping[str, Iterable[str]]) -> list[dict]:
    """Returns the variables of a pod that runs a component outside Kubeflow Pipelines.

    Args:
        secrets: Keys by Kubernetes secret.
    """
    variables: list[dict] = [  # for pip: not every pod runs as root, nor is every Python pip's own
        {"name": "HOME", "value": "/tmp"}, {"name": "PIP_BREAK_SYSTEM_PACKAGES", "value": "1"}]
    for secret, keys in secrets.items():
        variables += secret_variables(secret, keys)
    return variables


def resources(cpu: str, memory: str, gpus: int) -> dict[str, Any]:
    """Returns what a container asks for: cores and memory as Kubernetes quantities, and whole GPUs."""
    return {"requests": {"cpu": cpu, "memory": memory}, **({"limits": {GPU: str(gpus)}} if gpus else {})}


def kept_by_kubernetes(text: str) -> str:
    """Escapes what Kubernetes would expand in a container's command: `$(NAME)`, and `$$`, which is `$` to it."""
    return re.sub(r"\$(?=[$(])", "$$", text)


def named(manifest: dict[str, Any]) -> dict[str, Any]:
    """Returns a manifest with a hash of what it asks for at the end of its name."""
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:8]
    return {**manifest, "metadata": {**manifest["metadata"], "name": f"{manifest['metadata']['name']}-{digest}"}}
