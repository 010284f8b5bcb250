"""A cluster's API server: any object is read and made.

It talks through the bare `kubernetes` client: kserve's own wraps every error in RuntimeError, its patch leaves stale
fields behind, its watch returns without a word on time-out, and it takes twice as long to install.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from handwriting.errors import DeployError, HandwritingError

log = logging.getLogger(__name__)

TIMEOUT = 30  # seconds for one call
AWAY_SECONDS = 120.0  # how long an API server may be away: an upgrade of the control plane takes about a minute
PAUSE = 1.0  # seconds between two tries to reach it, doubled up to LONGEST_PAUSE
LONGEST_PAUSE = 15.0
PASSING = {429, 500, 502, 503, 504}  # answers that another try may better
HEADERS = {"Accept": "application/json", "Content-Type": "application/json"}


class ApiServer:
    """That of the cluster this process belongs to, else the one of the kubeconfig."""

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
                raise DeployError(f"no cluster to talk to ({error}); run this step in the cluster or set KUBECONFIG "
                                  "to a kubeconfig file") from error
        return cls(client.ApiClient(configuration))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        self.client.close()

    def get(self, path: str, **query: str) -> dict | None:
        """Returns the object or list at a path, None where there is none.

        Raises:
            DeployError: The cluster refuses it or cannot be reached.
        """
        from kubernetes.client import ApiException

        try:
            return self.call("GET", path, query=query)
        except ApiException as error:
            if error.status == 404:
                return None
            raise explain(error, path, _namespace_of(path)) from error

    def create(self, path: str, body: dict) -> bool:
        """Makes an object in the list at a path; False where one of that name is there already.

        Raises:
            DeployError: The cluster refuses it or cannot be reached.
        """
        from kubernetes.client import ApiException

        try:
            self.call("POST", path, body)
        except ApiException as error:
            if error.status == 409:
                return False
            raise explain(error, path, _namespace_of(path)) from error
        return True

    def wait(self, path: str, where: str, ends: Sequence[str], progress: Callable[[dict], str], poll: float,
             deleted: type[HandwritingError]) -> dict:
        """Waits until an object has come to its end, and logs how far it is.

        Args:
            path: Of the object.
            where: What messages call it.
            ends: Types of condition that are an end.
            progress: Says in a sentence how far a status is.
            poll: Seconds between two looks.
            deleted: The error for an object that somebody deletes.

        Returns:
            The condition in which it ended.

        Raises:
            HandwritingError: `deleted`, it is gone.
            DeployError: The cluster refuses it or cannot be reached.
        """
        told = ""
        while True:
            found = self.get(path)
            if found is None:
                raise deleted(f"{where} was deleted before it came to its end; start the run again")
            status = found.get("status", {})
            if (text := progress(status)) != told:
                log.info("%s", text)
                told = text
            if ended := ended_in(status, ends):
                return ended
            time.sleep(poll)

    def call(self, method: str, path: str, body: dict | None = None, query: dict[str, str] | None = None) -> Any:
        """One call; an API server that is away for a while is waited for.

        A write that is sent twice does no harm: the second one meets 409, and is then found to be so already.

        Raises:
            ApiException: The API server refuses it.
            DeployError: It does not answer.
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


def ended_in(status: Mapping[str, Any], ends: Sequence[str]) -> dict | None:
    """Returns the condition in which an object has ended, None where it has not.

    Args:
        status: Of the object.
        ends: Types of condition that are an end.
    """
    return next((condition for condition in status.get("conditions", [])
                 if condition["type"] in ends and condition["status"] == "True"), None)


def explain(error: Any, place: str, namespace: str, advice: str = "") -> DeployError:
    """Turns an ApiException into what the user can do about it.

    Args:
        error: The exception.
        place: What was asked for.
        namespace: Where.
        advice: What to do, if known better than by the status alone.
    """
    message = message_of(error)
    otherwise = "correct the parameters, or look at the controller of such objects"
    if not advice and "admission webhook" not in message:  # such a one refuses with 403 too
        advice = {
            401: "the cluster does not accept these credentials; renew them",
            403: f"give the step's service account the Roles of build/cluster.yaml in the namespace {namespace}",
            404: f"the namespace {namespace}, or the controller of such objects, is not there; create the one or "
                 "install the other",
        }.get(error.status, "")
    return DeployError(f"{place}: {error.status} {message}; {advice or otherwise}")


def message_of(error: Any) -> str:
    """Returns the API server's own sentence, without the headers that ApiException prints."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason or "no reason given").strip()


def _namespace_of(path: str) -> str:
    parts = path.split("/")
    return parts[parts.index("namespaces") + 1]


def _brief(error: Any) -> str:
    return f"{error.status} {message_of(error)}" if hasattr(error, "status") else type(error).__name__
