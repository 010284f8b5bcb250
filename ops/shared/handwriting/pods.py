"""Pieces of pods' specifications that several manifests have."""

from collections.abc import Iterable


def secret_variables(secret: str, keys: Iterable[str]) -> list[dict]:
    """Returns a container's variables of the same names as a secret's keys; absent where the secret is."""
    return [{"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key, "optional": True}}}
            for key in keys]
