"""The events that Label Studio 1.23 sends to a webhook, as far as they tell of labels; and what they do not tell.

It waits a second for the answer (its WEBHOOK_TIMEOUT), and does not send an event again.
"""

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote

from handwriting.errors import DataError, LabelStudioError
from handwriting.label_studio import LabelStudio

ANNOTATED = ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED")
DELETED = "ANNOTATIONS_DELETED"
IMPORTED = "TASKS_CREATED"  # all that an import sends, with labels or without; it does not number the annotations
ACTIONS = (*ANNOTATED, DELETED, IMPORTED)
UNFIT = (AttributeError, KeyError, OverflowError, TypeError, ValueError)  # what JSON of another form leads to
PAGE = 500
LEEWAY = 60.0  # seconds by which a task may be older than its annotations: an import writes it first


class Event(NamedTuple):
    """What one event of Label Studio tells; an event of no interest tells nothing, of project 0.

    Attributes:
        project: Number of the project.
        added: Numbers of annotations that are labels now.
        removed: Numbers of annotations that are none any more: deleted, or cancelled.
        newest: Unix time of the last change among them, by Label Studio's clock.
        unnamed: There are further labels, which the event does not number.
    """

    project: int = 0
    added: frozenset[int] = frozenset()
    removed: frozenset[int] = frozenset()
    newest: float = 0.0
    unnamed: bool = False


def parse_event(payload: Any) -> Event:
    """Reads the JSON body of an event.

    Raises:
        DataError: It has not the form of Label Studio's events.
    """
    try:
        action = payload["action"]
        if action not in ACTIONS:
            return Event()
        project = _number(payload["project"]["id"])
        if action == DELETED:
            return Event(project, removed=frozenset(_number(one["id"]) for one in payload["annotations"]))
        if action == IMPORTED:
            return Event(project, unnamed=any(task["total_annotations"] for task in payload["tasks"]))
        annotations = payload["annotation"]
        return _annotated(project, [annotations] if isinstance(annotations, dict) else annotations)
    except KeyError as error:
        raise DataError(f"the event has no {error}; let Label Studio's webhook send the payload") from None
    except UNFIT:
        raise DataError("this is no event as Label Studio 1.23 sends it; let a webhook of it send here") from None


def labels_since(client: LabelStudio, project: int, since: float) -> Event:
    """Looks up the labels made or changed after a time, whether an event told of them or not.

    Args:
        client: The server.
        project: Number of the project.
        since: Unix time by Label Studio's clock.

    Raises:
        LabelStudioError: Server, token or project are not usable.
    """
    try:
        return _annotated(project, (
            annotation for task in _tasks_since(client, project, since - LEEWAY) for annotation in task["annotations"]
            if unix_time(annotation["updated_at"]) > since))
    except UNFIT as error:
        raise LabelStudioError(f"{client.url}: the tasks of project {project} are not as Label Studio 1.23 gives them "
                               f"({type(error).__name__}); check that the URL is that of a Label Studio") from error


def _tasks_since(client: LabelStudio, project: int, since: float) -> Iterator[dict[str, Any]]:
    query = quote(json.dumps({"filters": {"conjunction": "and", "items": [{
        "filter": "filter:tasks:updated_at", "operator": "greater", "type": "Datetime",
        "value": f"{datetime.fromtimestamp(since, UTC):%Y-%m-%dT%H:%M:%S.000Z}"}]}}))
    page, left = 1, 1
    while left > 0:
        answer = client.json("GET", f"/api/tasks?project={project}&page={page}&page_size={PAGE}&fields=all"
                                    f"&resolve_uri=false&query={query}")
        yield from answer["tasks"]
        left, page = answer["total"] - page * PAGE, page + 1


def _annotated(project: int, annotations: Iterable[dict[str, Any]]) -> Event:
    added, removed = set[int](), set[int]()
    newest = 0.0
    for one in annotations:
        (removed if one.get("was_cancelled") else added).add(_number(one["id"]))
        newest = max(newest, unix_time(one["updated_at"]))
    return Event(project, frozenset(added), frozenset(removed), newest)


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError
    return value


def unix_time(text: str) -> float:
    """Returns the Unix time of Label Studio's `2026-11-25T18:16:03.316506Z`."""
    return datetime.fromisoformat(text).timestamp()
