"""What a reader makes of Label Studio's tasks: the picture that one names, and a reading as a prediction for it."""

import xml.etree.ElementTree as ElementTree
from typing import Any, NamedTuple

from handwriting.errors import ImageError, LabelStudioError, MissingError
from handwriting.layout import CORRECTION, READINGS, USER_PICTURES
from handwriting.store import Store, read_json

MALFORMED, OUTSIDE, MISSING = "malformed task", "outside the bucket", "missing picture"


class Interface(NamedTuple):
    """Names of a project's label interface: its text area, the picture it is for, and the key of that one's URI."""

    caption: str
    image: str
    key: str


def find_interface(label_config: Any, caption: str = "") -> Interface:
    """Returns the names in a project's label config.

    Args:
        label_config: Its XML.
        caption: Name of the text area, where the config has several; "" takes the first.

    Raises:
        LabelStudioError: It has no such text area of a picture.
    """
    tags = _tags(label_config)
    images = {tag.get("name", ""): tag.get("value", "").lstrip("$") for tag in tags if tag.tag.lower() == "image"}
    areas = [Interface(tag.get("name", ""), tag.get("toName", ""), images[tag.get("toName", "")]) for tag in tags
             if tag.tag.lower() == "textarea" and tag.get("toName") in images and tag.get("perRegion") != "true"]
    for area in areas:
        if caption in ("", area.caption):
            return area
    there = ", ".join(area.caption for area in areas) or "none"
    raise LabelStudioError(f"the label interface has no text area {caption or 'of a picture'} for readings (it has "
                           f"{there}); add <TextArea name=\"{caption or 'caption'}\" toName=\"image\"/> beside its "
                           "Image, or give the name of another one")


def _tags(label_config: Any) -> list[ElementTree.Element]:
    try:
        if "<!ENTITY" in label_config:  # entities that hold each other would fill the memory
            raise ValueError("it declares entities")
        return list(ElementTree.fromstring(label_config).iter())
    except (ElementTree.ParseError, TypeError, ValueError) as error:
        raise LabelStudioError(f"the label interface is no XML ({error}); correct the project's settings") from None


def key_of(task: Any, interface: Interface, data: Store) -> str:
    """Returns where a task's picture lies in the bucket's data folder, and never anything else.

    Args:
        task: As Label Studio gives it, with the picture's URI unresolved.
        interface: Names its key.
        data: The folder of the splits.

    Raises:
        ImageError: MALFORMED or OUTSIDE.
    """
    known = isinstance(task, dict) and isinstance(task.get("data"), dict)
    uri = task["data"].get(interface.key) if known else None
    if not isinstance(uri, str):
        raise ImageError(MALFORMED, f"its data has no URI under {interface.key!r}; delete the task, or correct it")
    key = uri.removeprefix(f"{data.root}/")
    parts = key.split("/")
    if key == uri or len(parts) < 3 or parts[1] != "images" or {"", ".", ".."} & set(parts):
        raise ImageError(OUTSIDE, f"its picture is not below {data.root}/<split>/images/; put it there")
    return key


def picture_of(task: Any, interface: Interface, data: Store) -> bytes:
    """Fetches a task's picture.

    Args:
        task: As Label Studio gives it, with the picture's URI unresolved.
        interface: Names its key.
        data: The folder of the splits.

    Raises:
        ImageError: MALFORMED, OUTSIDE or MISSING.
        StoreError: The bucket fails.
    """
    key = key_of(task, interface, data)
    try:
        return data.read(key)
    except MissingError:
        raise ImageError(MISSING, f"{data.root}/{key} does not exist; upload it again, or delete the task") from None


def correction_of(task: Any, interface: Interface, data: Store) -> str:
    """Returns what a user of the predictor said that a task's picture shows, "" where nobody did.

    Args:
        task: As Label Studio gives it, with the picture's URI unresolved.
        interface: Names its key.
        data: The folder of the splits.

    Raises:
        ImageError: MALFORMED or OUTSIDE.
        StoreError: The bucket fails.
    """
    folder, _, name = key_of(task, interface, data).rpartition("/")
    if folder != USER_PICTURES:
        return ""
    try:
        found = read_json(data, f"{READINGS}/{name.rpartition('.')[0]}.json")
    except MissingError:  # a picture that people put there
        return ""
    return str(found.get(CORRECTION) or "") if isinstance(found, dict) else ""


def prediction(text: str, confidence: float, version: str, interface: Interface) -> dict[str, Any]:
    """Returns a reading in Label Studio's form; without a text where nothing was read, so that people type at once."""
    result = {"from_name": interface.caption, "to_name": interface.image, "type": "textarea", "value": {"text": [text]}}
    return {"result": [result] if text else [], "score": round(confidence, 4), "model_version": version}
