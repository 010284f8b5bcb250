"""Client for Label Studio's HTTP interface: exports, storages, and authorised requests for anything else.

Knows both kinds of token, waits out short faults, and turns every lasting one into a `LabelStudioError` that names the
server and what to do. Neither the token nor what people wrote ever stands in a message or a log line.
"""

import base64
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ReadTimeoutError
from urllib3.util.retry import Retry

from handwriting.errors import LabelStudioError

T = TypeVar("T")

logger = logging.getLogger(__name__)

TOKEN_VARIABLE = "LABEL_STUDIO_TOKEN"
BUSY = (429, 500, 502, 503, 504)
LEEWAY = 30.0  # seconds before its end at which an access token is not used any more
TOKEN_HINT = (f"check {TOKEN_VARIABLE}: copy the whole token from Account & Settings, Personal Access Token (or Legacy "
              "Token, which new installations switch off until Organization > API Tokens Settings allows it), "
              "of a user who may see the project")


@dataclass(frozen=True)
class Patience:
    """How long to wait for Label Studio; all but `tries` in seconds.

    Args:
        connect: For a connection.
        read: For the next byte of an answer.
        export: The same for a plain export, which is written whole before its first byte comes.
        deadline: For an export snapshot, or the synchronisation of a storage.
        poll: Between two looks at their state.
        tries: Attempts at a request before its fault counts as lasting.
        backoff: Before the third attempt, doubled before each further one; the second follows at once.
    """

    connect: float = 10
    read: float = 60
    export: float = 120
    deadline: float = 1800
    poll: float = 1
    tries: int = 5
    backoff: float = 1


class _Late(LabelStudioError):
    """No answer in time, from the server or the proxy before it."""


class _Absent(LabelStudioError):
    """Status 404."""


class _Retry(Retry):
    """Waits a minute at most where a server asks for more in Retry-After."""

    def get_retry_after(self, response: Any) -> float | None:
        asked = super().get_retry_after(response)
        return None if asked is None else min(asked, 60)


def from_environment(url: str, patience: Patience = Patience()) -> "LabelStudio":
    """Returns a client with the token of the environment variable LABEL_STUDIO_TOKEN.

    Raises:
        LabelStudioError: The variable is absent or empty, or the URL cannot be one.
    """
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if not token:
        raise LabelStudioError(f"{TOKEN_VARIABLE} is not set: {_checked_url(url)} needs a token; take one from "
                               "Label Studio's Account & Settings (in a cluster: in the pipeline's secret)")
    return LabelStudio(url, token, patience)


class LabelStudio:
    """One Label Studio server, seen by the user of a token.

    Args:
        url: Address without `/api`, such as `http://localhost:8080`.
        token: A legacy token, or a personal access token (recognised by the three parts of a JWT).
        patience: Time limits.

    Raises:
        LabelStudioError: URL or token have an impossible form.
    """

    def __init__(self, url: str, token: str, patience: Patience = Patience()):
        self.url = _checked_url(url)
        self.patience = patience
        self._token = _checked_token(token)
        self._access: str | None = None
        self._access_ends = 0.0
        self._calm = _session(patience, read=2, statuses=BUSY)
        # a plain export that timed out once would do so again: a snapshot is the way then
        self._hasty = _session(patience, read=False, statuses=(429, 502, 503))

    def __repr__(self) -> str:
        return f"LabelStudio({self.url!r})"

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """Sends one authorised request below the server's URL; `options` are those of `requests`.

        Raises:
            LabelStudioError: The server cannot be reached, or answers anything but success.
        """
        return self._send(self._calm, method, path, **options)

    def json(self, method: str, path: str, **options: Any) -> Any:
        """Sends one authorised request and parses the JSON of its answer.

        Raises:
            LabelStudioError: As for `request`, and where the answer is not JSON.
        """
        return self._parsed(self.request(method, path, **options))

    def _send(self, session: requests.Session, method: str, path: str, **options: Any) -> requests.Response:
        options.setdefault("timeout", (self.patience.connect, self.patience.read))
        options.setdefault("auth", self._authorize)
        options.setdefault("allow_redirects", method == "GET")  # any other method would arrive as a GET
        try:
            response = session.request(method, self.url + path, **options)
            if response.status_code == 401 and self._access is not None:  # ended early, by revocation or a restart
                self._access = None
                response = session.request(method, self.url + path, **options)
        except requests.RequestException as error:
            if _timed_out(error):
                raise _Late(f"{self.url}: {method} {path}: no answer in time; try again later, or look at Label "
                            "Studio's log") from None
            raise LabelStudioError(
                f"Label Studio at {self.url} cannot be reached ({_cause(error)}): start it, or correct the URL "
                "(LABEL_STUDIO_URL, label_studio_url)") from None
        if response.status_code < 300:
            return response
        kind = {404: _Absent, 502: _Late, 504: _Late}.get(response.status_code, LabelStudioError)
        raise kind(f"{self.url}: {method} {path}: {_summary(response)}; {_hint(response)}")

    def _parsed(self, response: requests.Response) -> Any:
        try:
            return response.json()
        except ValueError:
            raise LabelStudioError(
                f"{self.url}: {response.request.method} {response.request.path_url}: the answer is not JSON but "
                f"{response.headers.get('Content-Type', 'of no type').partition(';')[0]}, {len(response.content)} "
                "bytes; check that the URL is that of a Label Studio, not of a login or proxy page") from None

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        personal = self._token.count(".") == 2
        request.headers["Authorization"] = f"Bearer {self._access_token()}" if personal else f"Token {self._token}"
        return request

    def _access_token(self) -> str:
        """Exchanges the personal token for one of some minutes, and keeps that until shortly before its end."""
        if self._access is None or time.time() > self._access_ends - LEEWAY:
            self._access = None
            path = "/api/token/refresh/"
            answer = self.json("POST", path, json={"refresh": self._token}, auth=_unauthorized)
            access = answer.get("access") if isinstance(answer, dict) else None
            if not isinstance(access, str):
                raise LabelStudioError(f"{self.url}: POST {path} gives no access token; {TOKEN_HINT}")
            self._access, self._access_ends = access, _end_of(access)
        return self._access

    def check(self, project: int) -> dict[str, Any]:
        """Returns the project's record, which proves server, token and number.

        Raises:
            LabelStudioError: One of them is wrong; says which, and the projects there are.
        """
        try:
            record = self.json("GET", f"/api/projects/{project}/")
        except _Absent:
            raise LabelStudioError(f"{self.url}: project {project} does not exist; {self._projects()}") from None
        if not isinstance(record, dict):
            raise LabelStudioError(f"{self.url}: project {project} is no JSON object; check that it is a Label Studio")
        return record

    def _projects(self) -> str:
        """Says which projects the user sees, as far as that can be told."""
        try:
            found = self.json("GET", "/api/projects/?page_size=20&include=id,title")["results"]
            names = ", ".join(f"{one['id']} ({one['title']})" for one in found)
        except (LabelStudioError, KeyError, TypeError):
            return "look up its number in the address bar of Label Studio"
        return f"take one of these: {names}" if names else "this user sees none: create one, or take another token"

    def export(self, project: int) -> list[dict[str, Any]]:
        """Returns all tasks with at least one annotation, cancelled ones included.

        Takes the plain export, and where the project is too large for it an export snapshot.

        Raises:
            LabelStudioError: Server, token, project or answer are not usable.
        """
        started = time.monotonic()
        try:
            tasks = self._plain_export(project)
        except (_Late, _Absent) as error:
            if isinstance(error, _Absent):
                self.check(project)  # there is one: it is the Enterprise edition, which has snapshots only
            logger.info("project %d gives no plain export: taking a snapshot", project)
            tasks = self._snapshot_export(project)
        logger.info("exported %d tasks of project %d in %.1f s", len(tasks), project, time.monotonic() - started)
        return tasks

    def _plain_export(self, project: int) -> list[dict[str, Any]]:
        return self._tasks(self._send(self._hasty, "GET", f"/api/projects/{project}/export?exportType=JSON",
                                      timeout=(self.patience.connect, self.patience.export)))

    def _tasks(self, response: requests.Response) -> list[dict[str, Any]]:
        tasks = self._parsed(response)
        if not isinstance(tasks, list):
            raise LabelStudioError(f"{self.url}: {response.request.path_url} is no list of tasks but a "
                                   f"{type(tasks).__name__}; check that the URL is that of a Label Studio")
        return tasks

    def _snapshot_export(self, project: int) -> list[dict[str, Any]]:
        title = f"handwriting {uuid.uuid4().hex}"
        path = f"/api/projects/{project}/exports/"
        what = f"the export snapshot of project {project}"
        self._start(path, json={"title": title})
        snapshot = self._wait(lambda: self._finished_snapshot(path, title), what)
        one = f"{path}{int(snapshot['id'])}"
        try:
            if snapshot["status"] == "failed":
                raise LabelStudioError(f"{self.url}: {what} failed; look at Label Studio's log")
            tasks = self._tasks(self.request("GET", f"{one}/download?exportType=JSON",
                                             timeout=(self.patience.connect, self.patience.export)))
        finally:
            self._delete(one)
        # unlike the plain export, a snapshot holds tasks that nobody annotated
        return [task for task in tasks if not isinstance(task, dict) or task.get("annotations", True)]

    def _finished_snapshot(self, path: str, title: str) -> dict[str, Any] | None:
        """Finds the snapshot by its title: where its creation timed out, no answer told its number."""
        for one in self.json("GET", path):
            if one.get("title") == title and one.get("status") in ("completed", "failed"):
                return one
        return None

    def _delete(self, path: str) -> None:
        try:
            self.request("DELETE", path)
        except LabelStudioError as error:  # the tasks are here: a snapshot left behind only takes room
            logger.warning("an export snapshot stays behind: %s", error)

    def sync_storages(self, project: int) -> int:
        """Makes every S3 source storage of the project look for new pictures, and waits until all have.

        Returns:
            The number of storages.

        Raises:
            LabelStudioError: A storage cannot be read, or does not finish in time.
        """
        self.check(project)
        storages = self.json("GET", f"/api/storages/s3/?project={project}")
        for storage in storages:
            self._sync(int(storage["id"]), f"s3://{storage.get('bucket')}/{storage.get('prefix') or ''}")
        return len(storages)

    def _sync(self, number: int, place: str) -> None:
        path = f"/api/storages/s3/{number}"
        what = f"the synchronisation of storage {number} ({place})"
        hint = "check its keys and endpoint in the project's settings, and that a first picture lies there"
        try:
            self._start(f"{path}/sync", json={})
        except LabelStudioError as error:
            raise LabelStudioError(f"{what} failed: {error}; {hint}") from None
        storage = self._wait(lambda: self._settled_storage(path), what)
        if storage["status"] == "failed":
            raise LabelStudioError(f"{self.url}: {what} failed; {hint}")
        if storage["status"] == "completed_with_errors":
            logger.warning("%s left pictures out; Label Studio shows which in the project's settings", what)
        logger.info("%s found %s new pictures", what, storage.get("last_sync_count"))

    def _settled_storage(self, path: str) -> dict[str, Any] | None:
        storage = self.json("GET", path)
        return None if storage.get("status") in ("initialized", "queued", "in_progress") else storage

    def _start(self, path: str, **options: Any) -> None:
        """Posts what starts long work; a small installation does it within the request, which may time out."""
        try:
            self.request("POST", path, **options)
        except _Late:
            logger.info("POST %s goes on without an answer", path)

    def _wait(self, look: Callable[[], T | None], what: str) -> T:
        """Looks until there is something to see."""
        end = time.monotonic() + self.patience.deadline
        while (seen := look()) is None:
            if time.monotonic() > end:
                raise LabelStudioError(f"{self.url}: {what} did not finish within {self.patience.deadline:.0f} s; "
                                       "look at Label Studio's log and its queue of jobs")
            time.sleep(self.patience.poll)
        return seen


def _session(patience: Patience, read: int | bool, statuses: tuple[int, ...]) -> requests.Session:
    """Returns a session that repeats what is safe to repeat: connecting, and requests that change nothing."""
    again = patience.tries - 1
    retry = _Retry(total=again, connect=again, read=read, status=again, backoff_factor=patience.backoff / 2,
                   status_forcelist=statuses, raise_on_status=False)
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


def _checked_url(url: str) -> str:
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise LabelStudioError("the URL of Label Studio must look like http://host:8080, without user, password or "
                               "query; correct LABEL_STUDIO_URL or label_studio_url")
    return url.strip().rstrip("/").removesuffix("/api")


def _checked_token(token: str) -> str:
    """Refuses what cannot be a header: `requests` would show the token in its error."""
    if not re.fullmatch(r"[\x21-\x7e]+", token.strip()):
        raise LabelStudioError(f"the token of Label Studio is empty, or holds blanks or odd letters; {TOKEN_HINT}")
    return token.strip()


def _unauthorized(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keeps `requests` from putting in a password of ~/.netrc."""
    return request


def _end_of(access: str) -> float:
    """Returns the Unix time at which an access token ends, or 0 where it does not say."""
    try:
        payload = access.split(".")[1]
        return float(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"])
    except (IndexError, KeyError, TypeError, ValueError):
        return 0.0


def _timed_out(error: requests.RequestException) -> bool:
    """Tells a server that takes too long from one that is not there, however deep `requests` wraps it."""
    inner = error.args[0] if error.args else None
    return (isinstance(error, requests.ReadTimeout) or isinstance(inner, ReadTimeoutError)
            or isinstance(getattr(inner, "reason", None), ReadTimeoutError))


def _cause(error: requests.RequestException) -> str:
    """Names the innermost fault, such as `ConnectionRefusedError`, without its text, which may hold addresses."""
    inner: BaseException = error
    while isinstance(step := getattr(inner, "reason", None) or inner.__cause__ or inner.__context__, BaseException):
        inner = step
    return type(inner).__name__


def _hint(response: requests.Response) -> str:
    status = response.status_code
    if status < 400:
        target = urlsplit(response.headers.get("Location", ""))
        return f"it redirects to {target.scheme}://{target.netloc.rpartition('@')[2]}: use the server's own URL"
    if status in (401, 403):
        return TOKEN_HINT
    if status == 404:
        return "check the number, and that the URL is that of a Label Studio"
    return "try again later, or look at Label Studio's log" if status in BUSY else "look at Label Studio's log"


def _summary(response: requests.Response) -> str:
    """Returns the status and what Label Studio says about it, less the parts that may quote a task."""
    try:
        body = response.json()
        detail = str(body["detail"])[:200]
        fields = ", ".join(sorted(body.get("validation_errors") or {}))
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"status {response.status_code}"
    return f"status {response.status_code}, {detail}" + (f" ({fields})" if fields else "")
