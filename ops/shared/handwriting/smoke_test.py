"""Asks a deployed service itself: does the new version answer, and does it read?"""

import io
import logging
import time

import requests
from PIL import Image, ImageDraw

from handwriting import access
from handwriting.errors import DeployError
from handwriting.layout import FIELD, KEEP_HEADER, VERSION_HEADER

log = logging.getLogger(__name__)

SECONDS = 180.0  # until the version must have answered: a service scaled to zero wakes up first, a route settles
PAUSE = 2.0
CALL_SECONDS = 60.0
REFUSED = {401, 403}  # what a gateway between us and the service answers, or the predictor to another token


def smoke_test(urls: list[str], version: str, seconds: float = SECONDS, pause: float = PAUSE) -> str:
    """Waits until a version has read a picture.

    Args:
        urls: Addresses of the service; the first that can be reached is asked. A share of the requests may still go to
            another version.
        version: The version that must answer.
        seconds: Deadline.
        pause: Seconds between two tries.

    Returns:
        The address that answered.

    Raises:
        DeployError: It did not in time, or was refused.
        ConfigError: The token of this environment could not be sent.
    """
    end, told = time.monotonic() + seconds, ""
    while True:
        for url in urls:
            fault = _fault(url, version)
            if not fault:
                log.info("%s answers with version %s", url, version)
                return url
            if fault != told:
                log.info("not yet: %s", fault)
                told = fault
        if time.monotonic() > end:
            raise DeployError(f"version {version} does not answer within {seconds:.0f} s: {told or 'no address'}; look "
                              "at the log of its pods, or deploy without the smoke test where a gateway must refuse us")
        time.sleep(pause)


def _fault(url: str, version: str) -> str:
    """Returns why one try failed, "" where the version read the picture."""
    try:
        answer = requests.post(f"{url.rstrip('/')}/predict", files={FIELD: ("line.png", picture())},
                               timeout=CALL_SECONDS,
                               headers={KEEP_HEADER: "no", "Accept": "application/json", **access.headers()})
        found = answer.headers.get(VERSION_HEADER)
        if answer.status_code in REFUSED:
            return (f"{url} answers {answer.status_code} {answer.text[:200]}: a gateway refuses this step, or the "
                    "predictor its token")
        if answer.status_code != 200:
            return f"{url} answers {answer.status_code} {answer.text[:200]}"
        if found != version:
            return f"{url} answers with version {found}"
        return "" if isinstance(answer.json().get("text"), str) else f"{url} answers without a text"
    except (requests.RequestException, ValueError, AttributeError) as error:
        return f"{url}: {type(error).__name__} {error}"


def picture() -> bytes:
    """Returns a PNG of one line; what it reads as does not matter."""
    image = Image.new("L", (240, 64), 255)
    ImageDraw.Draw(image).text((16, 16), "12345", fill=0, font_size=32)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
