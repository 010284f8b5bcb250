"""Kubeflow Pipelines from a notebook: connect, start a run, wait for it. The command line uses the same functions.

    client = connect()
    run = wait(client, start(client, {"project": 1, "bucket": "s3://ocrpipeline", "epochs": 20}))

What the run gave is read with `pipeline.results`. A token never stands in an argument of a command or in a log: it
comes from the variable KFP_TOKEN, or in a cluster from the file that the PodDefault `access-ml-pipeline` mounts.
"""

import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import kfp
import urllib3
from kfp.client.client import KF_PIPELINES_ENDPOINT_ENV
from kfp_server_api import ApiException

from handwriting.errors import PipelineError
from pipeline.arguments import checked
from pipeline.handwriting_pipeline import handwriting_pipeline
from pipeline.run_details import failure, states

T = TypeVar("T")

log = logging.getLogger(__name__)

TOKEN_VARIABLE = "KFP_TOKEN"
EXPERIMENT = "handwriting"
SECONDS = 30  # for an answer
PAGE = 100  # entries of a listing
FAULTS = 5  # looks at a run in a row that may fail: a gateway restarts, a port-forward breaks off
HINTS = {401: f"set {TOKEN_VARIABLE} to a token that is still valid",
         403: f"set {TOKEN_VARIABLE} to a token with rights on this namespace, or give another namespace",
         404: "check the address (a full distribution wants /pipeline at its end) and the name or number asked for"}
ENDED = {"FAILED": "failed", "CANCELED": "was canceled", "SKIPPED": "was skipped"}
"""States in which a run has ended without success. kfp's own wait raises for none, and waits for ever on CANCELED."""


class Client(kfp.Client):
    """kfp's client, which remembers the user's namespace and looks once whether the server is there.

    Attributes:
        user_namespace: Namespace of experiments and runs in a multi-user Kubeflow; "" for kfp's own setting. It is not
            kfp's argument `namespace`, in which that looks for the server.
    """

    def __init__(self, host: str, namespace: str, token: str):
        self.user_namespace = namespace
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This client only works with", FutureWarning)
            super().__init__(host=host or None, existing_token=token or None)

    @property
    def address(self) -> str:
        """Address of the server."""
        return str(self._existing_config.host)

    def get_user_namespace(self) -> str:
        """Returns the namespace of experiments and runs, "" where there is only one."""
        return self.user_namespace or super().get_user_namespace()

    def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
        """Asks the server how it is, once; kfp's own asks five times with five seconds between.

        Raises:
            PipelineError: It does not answer, or something else does.
        """
        if "://" not in self.address:  # kfp leaves it out within a cluster, and urllib3 warns of that
            self._existing_config.host = f"http://{self.address}"
        found, _, headers = self.ask("asking whether it is there", lambda: (
            self._healthz_api.healthz_service_get_healthz_with_http_info(_request_timeout=SECONDS)))
        if "html" in headers.get("Content-Type", ""):
            raise PipelineError(f"{self.address} answers with a page, such as one to log in; set {TOKEN_VARIABLE}, and "
                                "check the address: a full distribution wants /pipeline at its end")
        return found

    def link(self, run_id: str) -> str:
        """Returns the address of a run's page."""
        return f"{self._get_url_prefix()}/#/runs/details/{run_id}"

    def read_log(self, run_id: str, pod: str) -> str:
        """Returns the log of a step's pod, which the server has at an address that kfp's client does not know.

        Raises:
            PipelineError: The pod is gone and its log was not kept, or the server refuses it.
        """
        path = f"/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log"
        text, _, _ = self.ask(f"the log of {pod}", lambda: self._run_api.api_client.call_api(
            path, "GET", response_type="str", auth_settings=["Bearer"], _request_timeout=SECONDS))
        return str(text)

    def pages(self, what: str, call: Callable[..., Any], key: str) -> Iterator[Any]:
        """Gives the entries of a listing, page after page.

        Raises:
            PipelineError: The server cannot be asked.
        """
        token: str | None = ""
        while token is not None:
            found = self.ask(f"the list of {what}", partial(call, page_token=token, page_size=PAGE))
            yield from getattr(found, key) or []
            token = found.next_page_token or None

    def ask(self, doing: str, call: Callable[[], T]) -> T:
        """Makes a call and turns its error into ours.

        Raises:
            PipelineError: The server cannot be reached or refuses the request.
        """
        try:
            return call()
        except ApiException as error:
            hint = HINTS.get(error.status, "look at the log of ml-pipeline if the message does not say it all")
            raise Refused(f"{self.address} refused {doing}: {error.status} {error.reason}{_message(error)}; {hint}",
                          error.status) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise PipelineError(f"{self.address} cannot be reached for {doing} ({error}); give its address, or set "
                                f"{KF_PIPELINES_ENDPOINT_ENV}; from outside a cluster forward a port first: kubectl "
                                "port-forward -n kubeflow svc/ml-pipeline-ui 8080:80") from error


class Refused(PipelineError):
    """The server answered with an error; `status` is that of HTTP."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


def connect(host: str = "", namespace: str = "", token: str = "") -> Client:
    """Connects to Kubeflow Pipelines and sees that it is there.

    Args:
        host: Its address. Empty takes KF_PIPELINES_ENDPOINT or, where that is not set either, what kfp finds: inside a
            cluster the server itself with the pod's token, elsewhere the one of the current kubectl context.
        namespace: Of experiments and runs in a multi-user Kubeflow, the profile's.
        token: For an address; empty takes KFP_TOKEN.

    Raises:
        PipelineError: It cannot be reached, or refuses the token.
    """
    known = host or os.environ.get(KF_PIPELINES_ENDPOINT_ENV, "")
    if known and not known.startswith(("http://", "https://")):
        known = f"https://{known}"  # as kfp would, but with a warning
    token = token or os.environ.get(TOKEN_VARIABLE, "")
    client = Client(known, namespace, token if known else "")  # with a token alone kfp would ask http://localhost
    client.get_kfp_healthz()
    return client


def start(client: Client, arguments: Mapping[str, Any], name: str = "") -> str:
    """Starts a run of the pipeline as it is in this checkout.

    Args:
        client: From `connect`.
        arguments: Values of parameters by name; the others have defaults.
        name: Of the run; empty takes the pipeline's name and the time.

    Returns:
        The id of the run.

    Raises:
        ConfigError: An argument is unknown or of the wrong type; nothing was sent.
        PipelineError: The server refuses the run.
    """
    given = checked(arguments)
    run = client.ask("a new run", lambda: client.create_run_from_pipeline_func(
        handwriting_pipeline, arguments=given, run_name=name or None, experiment_name=EXPERIMENT))
    log.info("started run %s: %s", run.run_id, client.link(run.run_id))
    return str(run.run_id)


def wait(client: Client, run_id: str, timeout: float = 24 * 3600.0, pause: float = 10.0) -> Any:
    """Waits until a run has succeeded, and logs each change of a step's state.

    Args:
        client: From `connect`.
        run_id: The run.
        timeout: Seconds to wait at most; the run itself goes on behind them.
        pause: Seconds between two looks.

    Returns:
        The run, a `kfp_server_api.V2beta1Run`.

    Raises:
        PipelineError: It failed, with the step and the reason; was canceled or skipped; did not end in time; or the
            server cannot be asked.
    """
    end, known, faults = time.monotonic() + timeout, dict[str, str](), 0
    while True:
        try:
            run = look(client, run_id)
            faults = 0
        except PipelineError as error:
            faults += 1
            if faults > FAULTS or isinstance(error, Refused) and error.status < 500:
                raise
            log.warning("%s; asking again", error)
        else:
            known = _tell(run, known)
            if run.state in ENDED:
                raise PipelineError(f"run {run_id} {ENDED[run.state]}{failure(client, run)}; {client.link(run_id)}")
            if run.state == "SUCCEEDED":
                return run
        if time.monotonic() > end:
            raise PipelineError(f"run {run_id} has not ended within {timeout:.0f} s, steps: {_list(known) or 'none'}; "
                                f"it goes on: wait again, or stop it at {client.link(run_id)}")
        time.sleep(pause)


def look(client: Client, run_id: str) -> Any:
    """Returns a run as it is now.

    Raises:
        PipelineError: There is none, or the server cannot be asked.
    """
    return client.ask(f"run {run_id}", lambda: client.runs.run_service_get_run(run_id, _request_timeout=SECONDS))


def _tell(run: Any, known: dict[str, str]) -> dict[str, str]:
    """Logs what has changed; returns the steps' states."""
    now = states(run)
    for step, state in now.items():
        if known.get(step) != state:
            log.info("%s: %s", step, state)
    return now


def _list(known: Mapping[str, str]) -> str:
    return ", ".join(f"{step} {state}" for step, state in known.items())


def _message(error: ApiException) -> str:
    """Returns what the server says about an error, without the trace that it adds."""
    try:
        found = json.loads(error.body or "")
    except ValueError:
        return ""
    text = str(found.get("message") or found.get("error_message") or found.get("error") or "") if isinstance(
        found, dict) else ""
    return f", {text.splitlines()[0][:500]}" if text else ""
