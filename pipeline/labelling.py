"""Sets a labelling project up in Label Studio: the label interface, the bucket, and labels that are known already.

Everything can be run again: what is there stays as it is, and only what is missing is added.
"""

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from handwriting.errors import LabelStudioError
from handwriting.label_studio import LabelStudio
from handwriting.labels import LabelConfig
from handwriting.store import join, split_s3
from pipeline.label_events import ACTIONS

logger = logging.getLogger(__name__)

BATCH = 250  # tasks a request: some 100 KB, written in half a second
PAGE = 1000
SETTINGS = {"aws_access_key_id": "AWS_ACCESS_KEY_ID", "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
            "aws_session_token": "AWS_SESSION_TOKEN", "s3_endpoint": "AWS_ENDPOINT_URL_S3",
            "region_name": "AWS_DEFAULT_REGION"}


class Imported(NamedTuple):
    """How many labels were added, and how many pictures were left alone since they have a task with annotations."""

    added: int
    kept: int


def label_interface(config: LabelConfig = LabelConfig()) -> str:
    """Returns the label interface, in which people type the text and say whether the picture is good."""
    return (f'<View>\n  <Image name="image" value="${config.captioning}"/>\n'
            f'  <TextArea name="{config.caption}" toName="image" maxSubmissions="1" editable="true"/>\n'
            f'  <Choices name="{config.quality}" toName="image" choice="single">\n    <Choice value="Good"/>\n'
            f'    <Choice value="{config.bad}"/>\n  </Choices>\n</View>')


def ensure_project(client: LabelStudio, title: str, config: LabelConfig = LabelConfig()) -> int:
    """Returns the number of the project with this title, the oldest where several have it; makes one where none has.

    Raises:
        LabelStudioError: The server refuses.
    """
    numbers = [one["id"] for one in _projects(client) if one["title"] == title]
    if numbers:
        return int(min(numbers))
    project = client.json("POST", "/api/projects/", json={"title": title, "label_config": label_interface(config)})
    logger.info("created project %d", project["id"])
    return int(project["id"])


def _projects(client: LabelStudio) -> Iterator[dict[str, Any]]:
    page = 1
    while True:
        answer = client.json("GET", f"/api/projects/?page={page}&page_size={PAGE}&include=id,title")
        yield from answer["results"]
        if not answer["next"]:
            return
        page += 1


def ensure_storage(client: LabelStudio, project: int, data_uri: str, folder: str = "user_data/images") -> int:
    """Connects the project with the bucket, so that it shows pictures and, when synchronised, finds new ones.

    The storage spans all of `data_uri`, since Label Studio refuses an empty folder and what users send comes last, but
    makes tasks of the pictures in `folder` only. Keys and endpoint come from the environment and are renewed.

    Args:
        client: The server.
        project: Number of the project.
        data_uri: Folder of the splits, such as `s3://ocrpipeline/data`; something must be in it.
        folder: Where new pictures arrive, below `data_uri`.

    Returns:
        The storage's number.

    Raises:
        LabelStudioError: Label Studio cannot read the bucket, or the project does not exist.
    """
    client.check(project)
    bucket, prefix = split_s3(data_uri)
    settings = {
        "project": project, "title": data_uri, "bucket": bucket, "prefix": prefix, "use_blob_urls": True,
        "regex_filter": rf"(?i){re.escape(join(prefix, folder).lstrip('/'))}/.*\.(png|jpe?g)$",
        "presign": True, "presign_ttl": 60, "recursive_scan": True,
        **{name: os.environ[variable] for name, variable in SETTINGS.items() if os.environ.get(variable)}}
    known = [one["id"] for one in client.json("GET", f"/api/storages/s3/?project={project}")
             if (one["bucket"], (one["prefix"] or "").strip("/")) == (bucket, prefix)]
    try:
        if known:
            return int(client.json("PATCH", f"/api/storages/s3/{known[0]}", json=settings)["id"])
        return int(client.json("POST", "/api/storages/s3/", json=settings)["id"])
    except LabelStudioError as error:
        raise LabelStudioError(f"Label Studio cannot read {data_uri}: check that it holds pictures, and that "
                               "AWS_ENDPOINT_URL_S3 and the keys are right as seen from Label Studio (one on loopback "
                               f"needs SSRF_PROTECTION_ENABLED=false there); {error}") from None


def import_labels(client: LabelStudio, project: int, data_uri: str, labels: Mapping[str, Mapping[str, str]],
                  config: LabelConfig = LabelConfig()) -> Imported:
    """Gives every picture that nobody annotated its known label.

    Synchronises the storages first: a picture imported before its storage finds it would get a second task.

    Args:
        client: The server.
        project: Number of the project.
        data_uri: Folder of the splits, such as `s3://ocrpipeline/data`.
        labels: Texts by file name, by split; the content of the bucket's `labels.json` files.
        config: Names of the label interface.

    Raises:
        LabelStudioError: The server refuses, or the project does not exist.
    """
    started = time.monotonic()
    client.sync_storages(project)
    wanted = {join(data_uri, split, "images", name): _result(text, config)
              for split, texts in labels.items() for name, text in texts.items()}
    tasks = {uri: task for uri, task in _tasks(client, project, config) if uri in wanted}
    fresh = [{"data": {config.captioning: uri}, "annotations": [{"result": result}]}
             for uri, result in wanted.items() if uri not in tasks]
    for first in range(0, len(fresh), BATCH):
        client.request("POST", f"/api/projects/{project}/import", json=fresh[first:first + BATCH])
        logger.info("%d of %d labels imported", min(first + BATCH, len(fresh)), len(fresh))
    bare = {uri: task["id"] for uri, task in tasks.items() if not _annotated(task)}
    for uri, number in bare.items():
        client.request("POST", f"/api/tasks/{number}/annotations/", json={"result": wanted[uri]})
    counts = Imported(added=len(fresh) + len(bare), kept=len(tasks) - len(bare))
    logger.info("project %d: %d labels added, %d kept, in %.1f s", project, *counts, time.monotonic() - started)
    return counts


def ensure_webhook(client: LabelStudio, project: int, url: str, secret: str) -> int:
    """Makes Label Studio tell a receiver of each annotation in a project; renews the webhook with this URL.

    Args:
        client: The server.
        project: Number of the project.
        url: The receiver's address, as Label Studio sees it.
        secret: What the receiver wants to hear; whoever may see the project's webhooks can read it there.

    Returns:
        The webhook's number.

    Raises:
        LabelStudioError: The server refuses the address, or the project does not exist.
    """
    client.check(project)
    settings = {"project": project, "url": url, "headers": {"Authorization": f"Bearer {secret}"}, "is_active": True,
                "send_payload": True, "send_for_all_actions": False, "actions": list(ACTIONS)}
    known = [one["id"] for one in client.json("GET", f"/api/webhooks/?project={project}") if one["url"] == url]
    try:
        if known:
            return int(client.json("PATCH", f"/api/webhooks/{known[0]}/", json=settings)["id"])
        return int(client.json("POST", "/api/webhooks/", json=settings)["id"])
    except LabelStudioError as error:
        raise LabelStudioError(f"Label Studio takes no webhook to {url}: {error}; a private address needs "
                               "SSRF_PROTECTION_ENABLED=false there") from None


def _result(text: str, config: LabelConfig) -> list[dict[str, Any]]:
    return [{"from_name": config.caption, "to_name": "image", "type": "textarea", "value": {"text": [text]}},
            {"from_name": config.quality, "to_name": "image", "type": "choices", "value": {"choices": ["Good"]}}]


def _tasks(client: LabelStudio, project: int, config: LabelConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields picture and task; of two tasks of one picture the annotated one comes last, and so stays in a dict."""
    found: list[dict[str, Any]] = []
    total = 1
    while len(found) < total:
        page = len(found) // PAGE + 1
        answer = client.json("GET", f"/api/tasks?project={project}&page={page}&page_size={PAGE}&fields=task_only"
                                    "&resolve_uri=false")
        total = answer["total"] if answer["tasks"] else 0
        found += answer["tasks"]
    for task in sorted(found, key=_annotated):
        yield str(task["data"].get(config.captioning)), task


def _annotated(task: dict[str, Any]) -> bool:
    return bool(task["total_annotations"] or task["cancelled_annotations"])
