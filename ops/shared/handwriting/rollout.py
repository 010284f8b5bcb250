"""Waits until a version truly serves, and tells why it does not.

An InferenceService's own Ready is not enough: it may be that of the version before, and `observedGeneration` is copied
from the object below it (kserve #6081). So the waits look at what carries the version: the Deployment in Standard mode,
the revision in Knative mode.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from handwriting.cluster import Cluster, where
from handwriting.errors import ConfigError, DeployError
from handwriting.inference_service import CANARY_FIELD, is_knative
from handwriting.layout import VERSION_VARIABLE

log = logging.getLogger(__name__)

FAILED = {"BlockedByFailedLoad", "InvalidSpec"}  # KServe's TransitionStatus
BROKEN = {"ImagePullBackOff", "InvalidImageName", "CrashLoopBackOff", "CreateContainerConfigError",
          "CreateContainerError", "RunContainerError"}  # a container's reasons to wait that time does not mend


@dataclass(frozen=True)
class WaitConfig:
    """How long a rollout may take.

    Attributes:
        timeout: Seconds until the new version serves; also for the old one when rolling back.
        poll: Seconds between two looks.
        stale: Seconds after which a failure that was there before counts as one of the new version.
    """

    timeout: float = 900.0
    poll: float = 2.0
    stale: float = 60.0

    def __post_init__(self) -> None:
        for name in ("timeout", "poll", "stale"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; give seconds above 0")


class Superseded(DeployError):
    """Somebody else has deployed another version meanwhile; theirs counts."""


class State(NamedTuple):
    """What one look saw: whether all is done, whether the child is the new version's, and a sentence for the log."""

    done: bool
    ours: bool
    text: str


class Rollout:
    """One version on its way.

    Args:
        cluster: Where.
        manifest: What was applied.
        before: The object as it was before that, None where there was none.
        changed: Whether applying changed anything.
        config: Deadlines.
    """

    def __init__(self, cluster: Cluster, manifest: dict, before: dict | None, changed: bool, config: WaitConfig):
        self.cluster, self.manifest, self.before, self.changed, self.config = (
            cluster, manifest, before, changed, config)
        self.namespace, self.name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        self.version = version_of(manifest["spec"]["predictor"])
        self.look = self._knative if is_knative(manifest) else self._standard
        self.ours_since = float("inf")

    def wait(self) -> dict:
        """Returns the object once the version serves.

        Raises:
            DeployError: It failed, or the time is over; with the cluster's own reason.
            Superseded: The object has another version now.
        """
        began, told = time.monotonic(), ""
        while True:
            service = self._service()
            state = self.look(service)
            if state.text != told:
                log.info("%3.0f s: %s", time.monotonic() - began, state.text)
                told = state.text
            if state.done and is_ready(service):
                return service
            self._stop_on_failure(service, state)
            if time.monotonic() - began > self.config.timeout:
                raise DeployError(f"{where(self.manifest)}: version {self.version} does not serve after "
                                  f"{self.config.timeout:.0f} s: {state.text}{_not_ready(service)}; look at its pods "
                                  f"with kubectl describe, or give it more time")
            time.sleep(self.config.poll)

    def _service(self) -> dict:
        service = self.cluster.service(self.namespace, self.name)
        found = version_of(service["spec"]["predictor"]) if service else "none"
        if service is None or found != self.version:
            raise Superseded(f"{where(self.manifest)} was given version {found} by others while {self.version} was "
                             "rolled out; theirs stays")
        return service

    def _standard(self, service: dict) -> State:
        """The Deployment carries our version, and all its replicas are updated and available."""
        deployment = self.cluster.deployment(self.namespace, f"{self.name}-predictor")
        if deployment is None:
            return State(False, False, "there is no Deployment yet")
        found = version_of(deployment["spec"]["template"]["spec"])
        seen = deployment.get("status", {}).get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
        if found != self.version or not seen:
            return State(False, False, f"the Deployment is still at version {found or 'none'}")
        status, wanted = deployment["status"], deployment["spec"].get("replicas", 1)
        updated, available, in_all = (status.get(key, 0) for key in (
            "updatedReplicas", "availableReplicas", "replicas"))
        done = updated == available == in_all == wanted
        return State(done, True, f"{wanted} pods wanted: {updated} of version {self.version}, {available} available, "
                                 f"{in_all} in all")

    def _knative(self, service: dict) -> State:
        """A revision newer than the one before is ready and has the requests it was given."""
        now, before = _predictor(service), _predictor(self.before or {})
        created, ready = now.get("latestCreatedRevision"), now.get("latestReadyRevision")
        if not created or self.changed and self._makes_revision() and created == before.get("latestCreatedRevision"):
            return State(False, False, "there is no new revision yet")
        canary = self.manifest["spec"]["predictor"].get(CANARY_FIELD)
        rolled_out = canary is not None or now.get("latestRolledoutRevision") == created
        return State(created == ready and rolled_out, True,
                     f"revision {created} {'is ready' if created == ready else 'is not ready'}, "
                     f"{'all requests' if canary is None else f'{canary} % of the requests'} go to it"
                     f"{'' if rolled_out else ' soon'}")

    def _makes_revision(self) -> bool:
        """Says whether the pods' template changed: another share of the requests alone makes no new revision."""
        return self.before is None or version_of(self.before["spec"]["predictor"]) != self.version

    def _stop_on_failure(self, service: dict, state: State) -> None:
        """Raises the cluster's own reason where the new version has failed for good."""
        if not state.ours:
            return
        self.ours_since = min(self.ours_since, time.monotonic())
        for reason in self._broken_pods():
            raise DeployError(f"{where(self.manifest)}: version {self.version} does not start: {reason}")
        model = service.get("status", {}).get("modelStatus", {})
        old = (self.before or {}).get("status", {}).get("modelStatus")
        if model.get("transitionStatus") in FAILED and (
                model != old or time.monotonic() - self.ours_since > self.config.stale):
            raise DeployError(f"{where(self.manifest)}: version {self.version} failed: {model['transitionStatus']} "
                              f"{_said(model.get('lastFailureInfo') or {}) or 'without a reason'}")

    def _broken_pods(self) -> Iterator[str]:
        """Yields why containers of the new version cannot run."""
        for pod in self.cluster.pods(self.namespace, self.name):
            if version_of(pod["spec"]) != self.version:
                continue
            status = pod.get("status", {})
            for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
                waiting = container.get("state", {}).get("waiting", {})
                if waiting.get("reason") in BROKEN:
                    ended = _said(container.get("lastState", {}).get("terminated", {}), longest=500)
                    yield (f"pod {pod['metadata']['name']}, container {container['name']}: {waiting['reason']} "
                           f"{waiting.get('message', '')} {f'(last end: {ended})' if ended else ''}".strip())


def version_of(pod_spec: dict) -> str:
    """Returns the version that a pod's specification carries, "" for none."""
    entries = [entry for container in pod_spec.get("containers", []) for entry in container.get("env", [])]
    return next((str(entry.get("value", "")) for entry in entries if entry["name"] == VERSION_VARIABLE), "")


def is_ready(service: dict) -> bool:
    """Says whether the object's condition Ready is True."""
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in _conditions(service))


def addresses(service: dict) -> list[str]:
    """Returns where a ready service can be asked, the address of its newest revision alone first, without paths."""
    status = service.get("status", {})
    newest = [entry.get("url") for entry in _predictor(service).get("traffic", [])
              if entry.get("latestRevision") and entry.get("tag")]
    return [url for url in [*newest, status.get("address", {}).get("url"), status.get("url")] if url]


def _predictor(service: dict) -> dict[str, Any]:
    return service.get("status", {}).get("components", {}).get("predictor", {})


def _conditions(service: dict) -> list[dict]:
    return service.get("status", {}).get("conditions", [])


def _not_ready(service: dict) -> str:
    """Returns what the conditions say that are not true."""
    said = [f"{c['type']}: {c.get('reason', '')} {c.get('message', '')}".strip(": ")
            for c in _conditions(service) if c["status"] != "True" and (c.get("reason") or c.get("message"))]
    return f" ({'; '.join(said)})" if said else ""


def _said(info: dict, longest: int = 0) -> str:
    """Returns what KServe's failure info or a container's last end tells, "" for nothing.

    Args:
        info: `reason`, `message` and `exitCode`, each of which may be absent.
        longest: Characters of the message to keep, its last ones; 0 keeps all.
    """
    parts = [info.get("reason"), (info.get("message") or "").strip()[-longest:],
             f"exit code {info['exitCode']}" if "exitCode" in info else ""]
    return ", ".join(part for part in parts if part)
