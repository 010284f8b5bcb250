"""Turns an export of Label Studio into labelled lines: one label a picture, and a counted reason for all others.

Everything here is a pure function of the export. Whether the pictures exist and whether the alphabet holds the texts
is for others to find out.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from handwriting.errors import ConfigError, DataError
from handwriting.text import clean_text

BUCKET_SPLITS = ("train", "validation", "test", "user_data")


class Reason(StrEnum):
    """Why a task gives no label; the values are what reports count under, and stay the same between versions."""

    MALFORMED = "malformed task"
    OUTSIDE = "outside the bucket"
    UNLABELLED = "no annotation"
    CANCELLED = "cancelled"
    BAD = "bad picture"
    EMPTY = "empty text"
    SHORT = "too short"
    LONG = "too long"
    DOUBLE = "same picture"


@dataclass(frozen=True)
class LabelConfig:
    """Names of the label interface, and which texts are taken.

    Args:
        captioning: Key of a task's data that holds the picture's URI.
        caption: Name of the text area.
        quality: Name of the choice that tells whether the picture can be read.
        bad: Its value for pictures to leave out.
        min_characters: Shortest text taken, in code points after cleaning.
        max_characters: Longest text taken, in code points after cleaning.
    """

    captioning: str = "captioning"
    caption: str = "caption"
    quality: str = "chc"
    bad: str = "Bad"
    min_characters: int = 1
    max_characters: int = 200

    def __post_init__(self) -> None:
        if not 1 <= self.min_characters <= self.max_characters:
            raise ConfigError(f"min_characters {self.min_characters} and max_characters {self.max_characters}: "
                              "take 1 <= min_characters <= max_characters")


class Label(NamedTuple):
    """One labelled line: its split, file name, picture's URI, clean text and, from an export, its task's number."""

    split: str
    name: str
    uri: str
    text: str
    task: int | None


class Reject(NamedTuple):
    """One task without a label; `detail` tells people more and holds none of the text."""

    task: int | None
    uri: str
    reason: str
    detail: str


class _Candidate(NamedTuple):
    """A label, and what decides between two of the same picture."""

    label: Label
    age: tuple[bool, datetime, int]


class _Unusable(Exception):
    """Ends the reading of one task; becomes its Reject."""

    def __init__(self, reason: Reason, detail: str):
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def select_labels(tasks: Iterable[Any], data_uri: str,
                  config: LabelConfig = LabelConfig()) -> tuple[list[Label], list[Reject]]:
    """Reads every task of an export; each gives exactly one label or one reject, in the order of the export.

    Args:
        tasks: The export, as parsed from JSON.
        data_uri: Folder of the splits, such as `s3://ocrpipeline/data`.
        config: Names and bounds.

    Returns:
        The labels, with one a picture at most, and the rejects.
    """
    results = [_read(task, data_uri.rstrip("/") + "/", config) for task in tasks]
    newest = _newest_of_each_picture(result for result in results if isinstance(result, _Candidate))
    labels: list[Label] = []
    rejects: list[Reject] = []
    for result in results:
        if isinstance(result, Reject):
            rejects.append(result)
        elif newest[_picture(result)] is result:
            labels.append(result.label)
        else:
            kept = newest[_picture(result)].label.task
            rejects.append(Reject(result.label.task, result.label.uri, Reason.DOUBLE, f"task {kept} is newer"))
    return labels, rejects


def read_labels(split: str, texts: Any, data_uri: str,
                config: LabelConfig = LabelConfig()) -> tuple[list[Label], list[Reject]]:
    """Reads one `labels.json` of the bucket, `{file name: text}`, as `select_labels` reads an export.

    Raises:
        DataError: It is not an object of texts by file name.
    """
    if not isinstance(texts, dict):
        raise DataError(f"{data_uri}/{split}/labels.json is no JSON object of texts by file name; correct it")
    labels: list[Label] = []
    rejects: list[Reject] = []
    for name, text in texts.items():
        uri = f"{data_uri}/{split}/images/{name}"
        try:
            if not isinstance(text, str):
                raise _Unusable(Reason.MALFORMED, "the label is no text")
            labels.append(Label(split, name, uri, _bounded(clean_text(text), config), None))
        except _Unusable as fault:
            rejects.append(Reject(None, uri, fault.reason, fault.detail))
    return labels, rejects


def _picture(candidate: _Candidate) -> tuple[str, str]:
    return candidate.label.split, candidate.label.name


def _newest_of_each_picture(candidates: Iterable[_Candidate]) -> dict[tuple[str, str], _Candidate]:
    newest: dict[tuple[str, str], _Candidate] = {}
    for candidate in candidates:
        other = newest.get(_picture(candidate))
        # the mark of a ground truth ranks the annotations of one task, not tasks: hence the time first
        if other is None or (candidate.age[1:], candidate.label.task) > (other.age[1:], other.label.task):
            newest[_picture(candidate)] = candidate
    return newest


def _read(task: Any, prefix: str, config: LabelConfig) -> _Candidate | Reject:
    number = task.get("id") if isinstance(task, dict) else None
    number = number if isinstance(number, int) and not isinstance(number, bool) else None
    uri = ""
    try:
        uri = _uri(task, config)
        if number is None:
            raise _Unusable(Reason.MALFORMED, "its id is no number")
        split, name = _place(uri, prefix)
        annotation = _annotation(task)
        return _Candidate(Label(split, name, uri, _text(annotation, config), number), _age(annotation))
    except _Unusable as fault:
        return Reject(number, uri, fault.reason, fault.detail)


def _uri(task: Any, config: LabelConfig) -> str:
    data = task.get("data") if isinstance(task, dict) else None
    uri = data.get(config.captioning) if isinstance(data, dict) else None
    if not isinstance(uri, str):
        raise _Unusable(Reason.MALFORMED, f"data.{config.captioning} is no text")
    return uri


def _place(uri: str, prefix: str) -> tuple[str, str]:
    """Returns split and file name of a picture below `prefix`."""
    split, _, rest = uri.removeprefix(prefix).partition("/")
    name = rest.removeprefix("images/")
    if not uri.startswith(prefix) or split not in BUCKET_SPLITS or not name or ".." in name.split("/"):
        raise _Unusable(Reason.OUTSIDE, f"not below {prefix}{{{','.join(BUCKET_SPLITS)}}}/images/")
    return split, name


def _annotation(task: dict[str, Any]) -> dict[str, Any]:
    """Picks the ground truth, else the newest annotation that nobody cancelled."""
    annotations = task.get("annotations")
    if not isinstance(annotations, list) or not all(isinstance(one, dict) for one in annotations):
        raise _Unusable(Reason.MALFORMED, "annotations is no list of annotations")
    if not annotations:
        raise _Unusable(Reason.UNLABELLED, "nobody labelled it")
    valid = [one for one in annotations if not one.get("was_cancelled")]
    if not valid:
        raise _Unusable(Reason.CANCELLED, f"all {len(annotations)} annotations are cancelled")
    return max(valid, key=_age)


def _age(annotation: dict[str, Any]) -> tuple[bool, datetime, int]:
    number = annotation.get("id")
    return (bool(annotation.get("ground_truth")), _time(annotation.get("updated_at")),
            number if isinstance(number, int) else 0)


def _time(value: Any) -> datetime:
    """Parses a time of the export; compared as text, `12:00:00.5Z` would come before `12:00:00Z`."""
    try:
        time = datetime.fromisoformat(value)
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError):
        return datetime.min.replace(tzinfo=UTC)


def _text(annotation: dict[str, Any], config: LabelConfig) -> str:
    values = _values(annotation)
    if config.bad in _strings(values, config.quality, "choices"):
        raise _Unusable(Reason.BAD, f"{config.quality} is {config.bad}")
    return _bounded(clean_text("".join(_strings(values, config.caption, "text")[:1])), config)


def _strings(values: dict[str, dict[str, Any]], name: str, key: str) -> list[str]:
    """Returns what was typed or chosen under `name`; Label Studio writes single values as a list or as text."""
    found = values.get(name, {}).get(key) or []
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise _Unusable(Reason.MALFORMED, f"{name}.{key} is no text")
    return found


def _values(annotation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the first value given for each name of the label interface."""
    values: dict[str, dict[str, Any]] = {}
    results = annotation.get("result")
    if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
        raise _Unusable(Reason.MALFORMED, "result is no list of results")
    for one in results:
        if isinstance(one.get("from_name"), str) and isinstance(one.get("value"), dict):
            values.setdefault(one["from_name"], one["value"])
    return values


def _bounded(text: str, config: LabelConfig) -> str:
    if not text:
        raise _Unusable(Reason.EMPTY, "no visible character")
    if len(text) < config.min_characters:
        raise _Unusable(Reason.SHORT, f"{len(text)} characters, at least {config.min_characters}")
    if len(text) > config.max_characters:
        raise _Unusable(Reason.LONG, f"{len(text)} characters, at most {config.max_characters}")
    return text
