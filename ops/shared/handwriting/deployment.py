"""Puts a bundle into service as a careful operator would: manifest, cluster, proof, pointer, and back if it fails."""

import copy
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from handwriting import inference_service, release, wheels
from handwriting.bundle import CURRENT, find_bundle, read_config
from handwriting.cluster import Cluster, is_so, where
from handwriting.errors import DeployError
from handwriting.inference_service import CANARY_FIELD, MODE_ANNOTATION, ServiceConfig, is_knative
from handwriting.rollout import Rollout, Superseded, WaitConfig, addresses, version_of
from handwriting.smoke_test import smoke_test
from handwriting.store import open_store, write_json

log = logging.getLogger(__name__)

Ask = Callable[[list[str], str], str]


class Deployed(NamedTuple):
    """What serves now: the manifest, the model's version, and the address that answered, or will in a cluster."""

    manifest: dict[str, Any]
    version: str
    url: str


def deploy(model_uri: str, config: ServiceConfig, apply: bool = True, wait: WaitConfig = WaitConfig(),
           ask: Ask | None = smoke_test) -> Deployed:
    """Makes a bundle's InferenceService, and applies it; `models/current.json` names the bundle when that is done.

    Args:
        model_uri: The bundle, `<models>/<version>`.
        config: How it is served.
        apply: False only writes manifest and pointer, for a machine without a cluster.
        wait: Deadlines.
        ask: Makes sure that the service answers with the version; None believes the cluster.

    Raises:
        MissingError: There is no bundle.
        DeployError: Its wheels cannot be had, the cluster refuses it, or it does not serve; what served before does so
            again, the pointer stays.
    """
    model_uri = find_bundle(model_uri)
    bundle = open_store(model_uri)
    version = read_config(bundle).version
    manifest = inference_service.manifest(model_uri, release.name(version), config)
    code = release.add_code(bundle)
    if config.install:
        wheels.ensure(bundle, code, wheels.Target(config.python, config.machine))
    url = f"http://{config.name}-predictor.{config.namespace}.svc.cluster.local"
    if apply:
        with Cluster.connect() as cluster:
            url = Operation(cluster, wait, ask).put(manifest) or url
    models = open_store(model_uri.rpartition("/")[0])
    write_json(models, CURRENT, {"id": version, "manifest": manifest})
    log.info("%s: version %s %s", config.name, version, "serves" if apply else "is current, not applied to a cluster")
    return Deployed(manifest, version, url)


class Operation:
    """One change of one InferenceService."""

    def __init__(self, cluster: Cluster, wait: WaitConfig, ask: Ask | None):
        self.cluster, self.wait, self.ask = cluster, wait, ask

    def put(self, manifest: dict) -> str:
        """Applies a manifest, waits, asks; on failure brings back what was there. Returns the service's address."""
        before = self._now(manifest)
        manifest = _in_the_same_mode(manifest, before)
        try:
            return self._roll_out(manifest, before)
        except Superseded:
            raise  # the service is somebody else's now
        except DeployError as error:
            raise DeployError(f"{error}; {self._roll_back(manifest, before)}") from error

    def _roll_out(self, manifest: dict, before: dict | None) -> str:
        """With a canary, the new version gets its share first, and all requests when it has answered."""
        all_requests = _with_canary(manifest, None)
        if CANARY_FIELD in manifest["spec"]["predictor"] and before and _version(before) != _version(manifest):
            self._step(manifest, before)
            before = self._now(manifest)
        return self._step(all_requests, before)

    def _step(self, manifest: dict, before: dict | None) -> str:
        """Applies, waits and asks."""
        urls = addresses(self._apply(manifest, before))
        return self.ask(urls, _version(manifest)) if self.ask else next(iter(urls), "")

    def _roll_back(self, manifest: dict, before: dict | None) -> str:
        """Brings back the object as it was; returns a sentence on how that went."""
        if before is None:
            return "no version served before, so the failed one is left there to look at"
        old, failed = _version(before), _version(manifest)
        if is_so(before, manifest):
            return f"version {old} was there before in the same form, so there is nothing to roll back to"
        log.warning("rolling back from version %s to %s", failed, old)
        previous = _restorable(before, manifest)
        try:
            now = self._now(manifest)
            if now is None or _version(now) != failed:
                return "others have changed it meanwhile, so it is left as it is"
            if CANARY_FIELD in now["spec"]["predictor"]:
                # without a share of its own the failed revision would get all requests until the old one's is ready
                self._apply(_with_canary(previous, 0), now)
                now = self._now(manifest)
            self._apply(previous, now)
        except DeployError as error:
            return f"rolling back to version {old} failed as well: {error}"
        return f"rolled back: version {old} serves again"

    def _now(self, manifest: dict) -> dict | None:
        return self.cluster.service(manifest["metadata"]["namespace"], manifest["metadata"]["name"])

    def _apply(self, manifest: dict, before: dict | None) -> dict:
        """Applies and waits; returns the object once its version serves."""
        changed = self.cluster.apply(manifest)
        log.info("%s: version %s %s", where(manifest), _version(manifest), "applied" if changed else "is there already")
        return Rollout(self.cluster, manifest, before, changed, self.wait).wait()


def _version(manifest: dict) -> str:
    return version_of(manifest["spec"]["predictor"])


def _in_the_same_mode(manifest: dict, before: dict | None) -> dict:
    """Returns the manifest with the mode spelt as the service has it: a service keeps its mode for its whole life.

    Raises:
        DeployError: The service was made in the other mode.
    """
    mode = ((before or {}).get("metadata", {}).get("annotations") or {}).get(MODE_ANNOTATION)
    if before is None or mode is None:
        return manifest
    if is_knative(before) != is_knative(manifest):
        raise DeployError(f"{where(manifest)} was made in {mode} mode and cannot change it; deploy in that mode or "
                          "under another name, or delete the service first")
    changed = copy.deepcopy(manifest)
    changed["metadata"]["annotations"][MODE_ANNOTATION] = mode
    return changed


def _with_canary(manifest: dict, percent: int | None) -> dict:
    """Returns a copy whose newest revision gets a share of the requests, or all where `percent` is None."""
    changed = copy.deepcopy(manifest)
    changed["spec"]["predictor"].pop(CANARY_FIELD, None)
    if percent is not None:
        changed["spec"]["predictor"][CANARY_FIELD] = percent
    return changed


def _restorable(before: dict, manifest: dict) -> dict:
    """Returns what to apply so that the object is as before: its own metadata, without what the cluster adds."""
    kept = {kind: before["metadata"].get(kind) or {} for kind in ("labels", "annotations")}
    return {**manifest, "metadata": {**manifest["metadata"], **kept}, "spec": copy.deepcopy(before["spec"])}
