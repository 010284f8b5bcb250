"""The model reads what nobody has labelled yet: predictions in Label Studio, for people to correct instead of type.

Older models' predictions stay. People see those of the project's `model_version`, which becomes the newest; the others
tell what was corrected in tasks that are labelled, and Label Studio could only delete them for all tasks at once.
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tqdm import tqdm

from handwriting.bundle import CONFIG, find_champion
from handwriting.errors import ImageError
from handwriting.label_studio import LabelStudio
from handwriting.label_tasks import Interface, correction_of, find_interface, picture_of, prediction
from handwriting.labels import LabelConfig
from handwriting.reader import Reader
from handwriting.store import CONNECTIONS, Store, open_store

log = logging.getLogger(__name__)

PAGE = 500  # tasks a request, read and posted before the next: a run that breaks off loses no more
SAMPLING = "Uncertainty sampling"  # Label Studio's name for: the lowest score first


@dataclass
class Prelabelled:
    """What became of the tasks that nobody labelled.

    Attributes:
        version: The model that read them; "" where none serves.
        already: Tasks that had its prediction before.
        looked_at: The other tasks.
        posted: Predictions that they got.
        unreadable: Why some got none, with how many.
    """

    version: str = ""
    already: int = 0
    looked_at: int = 0
    posted: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)

    def metrics(self) -> dict[str, int]:
        """Returns all counts by name."""
        return {"tasks looked at": self.looked_at, "predictions posted": self.posted, "already there": self.already,
                **self.unreadable}

    def summary(self) -> dict[str, Any]:
        """Returns version and counts as a command prints them."""
        return {"version": self.version, "looked_at": self.looked_at, "posted": self.posted, "already": self.already,
                "unreadable": dict(self.unreadable)}


def prelabel(client: LabelStudio, project: int, model_uri: str, data_uri: str, caption: str = LabelConfig.caption,
             language_model: bool = True, sync: bool = True, uncertain_first: bool = True) -> Prelabelled:
    """Reads the pictures of tasks that nobody labelled, and posts the readings as predictions of the model's version.

    Run again it posts nothing new; a newer model reads all of them again.

    Args:
        client: The Label Studio to ask.
        project: Number of the project.
        model_uri: A bundle, or the root of models: the one that serves. Without one nothing happens.
        data_uri: `s3://bucket/prefix` that holds `user_data/images/` and so on, as the tasks name it.
        caption: Name of the text area.
        language_model: Read with the bundle's language model.
        sync: First lets Label Studio look for new pictures in its source storages.
        uncertain_first: Let the project show these predictions, and the least certain ones first; False leaves its
            settings alone.

    Raises:
        LabelStudioError: Label Studio fails, or its label interface has no such text area.
        DataError: The bundle is damaged.
        StoreError: The bucket fails.
    """
    bundle = model_uri if open_store(model_uri).exists(CONFIG) else find_champion(model_uri)
    if not bundle:
        log.warning("%s has no model that serves: nothing is read; the first one that is deployed will be", model_uri)
        return Prelabelled()
    record = client.check(project)
    interface = find_interface(record.get("label_config"), caption)
    if sync:
        log.info("synced %d source storages", client.sync_storages(project))
    reader = Reader.fetch(bundle, threads=1, language_model=language_model)  # the pool below takes the other cores
    done = _read_all(client, project, reader, open_store(data_uri), interface)
    if uncertain_first and done.posted + done.already:
        _show(client, record, reader.version)
    return done


def _read_all(client: LabelStudio, project: int, reader: Reader, data: Store, interface: Interface) -> Prelabelled:
    started = time.monotonic()
    left, already = (_ask(client, project, reader.version, posted, size=1)["total"] for posted in (False, True))
    done = Prelabelled(reader.version, already)
    with ThreadPoolExecutor(CONNECTIONS) as pool, tqdm(total=left, desc="reading", unit="", disable=None) as progress:
        for tasks in _pages(client, project, reader.version):
            found = list(pool.map(partial(_predict, reader=reader, data=data, interface=interface), tasks))
            predictions = [one for one in found if isinstance(one, dict)]
            _post(client, project, predictions)
            done.looked_at += len(tasks)
            done.posted += len(predictions)
            done.unreadable.update(one for one in found if isinstance(one, str))
            progress.update(len(tasks))
    log.info("project %d: model %s looked at %d tasks in %.1f s: %d predictions posted, %d there already, not read: %s",
             project, done.version, done.looked_at, time.monotonic() - started, done.posted, done.already,
             dict(done.unreadable))
    return done


def _pages(client: LabelStudio, project: int, version: str) -> Iterator[list[dict[str, Any]]]:
    """Yields the tasks to read, by number: pages counted from the first would shift with each prediction posted."""
    last = 0
    while tasks := _ask(client, project, version, False, last)["tasks"]:
        yield tasks
        last = max(task["id"] for task in tasks)


def _ask(client: LabelStudio, project: int, version: str, posted: bool, last: int = 0, size: int = PAGE) -> Any:
    """Returns tasks that nobody labelled or skipped, with or without this version's prediction, and their total."""
    filters = [("total_annotations", "equal", "Number", 0), ("cancelled_annotations", "equal", "Number", 0),
               ("predictions_model_versions", "contains" if posted else "not_contains", "List", [version]),
               ("id", "greater", "Number", last)]
    items = [{"filter": f"filter:tasks:{name}", "operator": operator, "type": kind, "value": value}
             for name, operator, kind, value in filters]
    query = {"filters": {"conjunction": "and", "items": items}, "ordering": ["tasks:id"]}
    return client.json("GET", "/api/tasks", params={
        "project": project, "page_size": size, "fields": "task_only", "include": "id,data", "resolve_uri": "false",
        "query": json.dumps(query)})


def _predict(task: dict[str, Any], reader: Reader, data: Store, interface: Interface) -> dict[str, Any] | str:
    """Returns the prediction for a task, or the reason why there is none."""
    try:
        if told := correction_of(task, interface, data):  # surer than any reading, and first in the queue
            return {"task": task["id"], **prediction(told, 0.0, reader.version, interface)}
        [reading] = reader.read([picture_of(task, interface, data)])
        return {"task": task["id"], **prediction(reading.text, reading.confidence, reader.version, interface)}
    except ImageError as error:
        log.warning("task %d is not read: %s: %s", task["id"], error.reason, error)
        return error.reason


def _post(client: LabelStudio, project: int, predictions: list[dict[str, Any]]) -> None:
    if predictions:
        client.request("POST", f"/api/projects/{project}/import/predictions", json=predictions)


def _show(client: LabelStudio, record: dict[str, Any], version: str) -> None:
    """Lets the project give people the least certain task first, with this version's reading filled in."""
    wanted = {"sampling": SAMPLING, "show_collab_predictions": True, "model_version": version}
    if any(record.get(name) != value for name, value in wanted.items()):
        client.request("PATCH", f"/api/projects/{record['id']}/", json=wanted)
