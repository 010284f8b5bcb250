"""Puts a bundle into service: manifest, cluster, pointer."""

import logging
from typing import Any, NamedTuple

from handwriting import inference_service
from handwriting.bundle import CURRENT, find_bundle, read_config
from handwriting.inference_service import ServiceConfig
from handwriting.store import open_store, write_json

log = logging.getLogger(__name__)


class Deployed(NamedTuple):
    """What serves now: the manifest, the model's version, and the address inside the cluster."""

    manifest: dict[str, Any]
    version: str
    url: str


def deploy(model_uri: str, config: ServiceConfig, apply: bool = True) -> Deployed:
    """Makes a bundle's InferenceService and applies it; `models/current.json` names the bundle when that is done.

    Args:
        model_uri: The bundle, `<models>/<version>`.
        config: How it is served.
        apply: False only writes manifest and pointer, for a machine without a cluster.

    Raises:
        MissingError: There is no bundle.
        DeployError: The cluster refuses it; the pointer stays.
    """
    model_uri = find_bundle(model_uri)
    version = read_config(open_store(model_uri)).version
    manifest = inference_service.manifest(model_uri, version, config)
    if apply:
        inference_service.apply(manifest)
    models = open_store(model_uri.rpartition("/")[0])
    write_json(models, CURRENT, {"id": version, "manifest": manifest})
    log.info("%s: version %s %s", config.name, version, "applied" if apply else "is current, not applied to a cluster")
    return Deployed(manifest, version, f"http://{config.name}.{config.namespace}.svc.cluster.local")
