"""The page at `/` to try the reader in a browser, what a browser is told about safety, and corrections of readings."""

import base64
import hashlib
from functools import cache
from typing import TYPE_CHECKING

from flask import Response, request

from handwriting.image import ImageConfig, read_line
from handwriting.layout import CORRECTION
from handwriting.page_html import BODY, SCRIPT, STYLE
from handwriting.protocols import Refused
from handwriting.text import clean_text

if TYPE_CHECKING:
    from handwriting.user_data import UserPictures

TEXT_FIELD = "text"  # of a correction: what the picture shows
MAX_TEXT = 200  # characters; preprocess takes no longer label
SAFETY = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
          "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'"}


def wants_page() -> bool:
    """Whether the client prefers HTML: browsers do, KServe's probes and curl do not."""
    return request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html"


def page(keeps: bool) -> Response:
    """Returns the page.

    Args:
        keeps: The service keeps pictures; else the page offers no corrections.
    """
    head = ('<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
            f'<title>OCR</title><link rel="icon" href="data:,"><style>{STYLE}</style>')
    response = Response(f'<!DOCTYPE html><html lang="en"{" data-keeps" if keeps else ""}><head>{head}</head>'
                        f"<body>{BODY}<script>{SCRIPT}</script></body></html>", content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = _policy()
    return response


@cache
def _policy() -> str:
    """Allows this style and script by their hashes, pictures that were chosen, and requests to this server alone."""
    style, script = (base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (STYLE, SCRIPT))
    return (f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; connect-src 'self'; "
            "img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


def tell_safety(response: Response) -> Response:
    """Adds to each answer what keeps browsers from guessing types, framing answers, or running what is in them."""
    for name, value in SAFETY.items():
        response.headers.setdefault(name, value)
    return response


def keep_correction(store: "UserPictures | None", picture: bytes, texts: list[str], version: str) -> str:
    """Keeps a picture with the text that a person says it shows: `{"correction": ...}` as the JSON beside it.

    It comes back as training data the way all users' pictures do: Label Studio's storage makes a task of the picture,
    `prelabelling` fills in the text, before all others, and it becomes a label once somebody confirms it there. Never
    at once, for anybody may send anything.

    Args:
        store: The users' pictures, or None where the service keeps none.
        picture: The line, once more: the server remembers no readings.
        texts: All that the request gives as text, which has to be one.
        version: Of the model that misread it.

    Returns:
        The text that was kept.

    Raises:
        Refused: 400, there is no text; 403, another site's page sent it; 409, nothing is kept here; 422, no line can
            have this text; 503, there is no room.
        ImageError: The picture cannot be used.
    """
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        raise Refused(403, "cross site", "a page of another site sent this; corrections come from the reader's own")
    if store is None:
        raise Refused(409, "keeps nothing", "this service keeps no pictures, so it takes no corrections")
    text = _text(texts)
    read_line(picture, ImageConfig())
    if not store.add(picture, {CORRECTION: text, "version": version}):
        raise Refused(503, "not kept", "the correction could not be kept, as the disk is full; try again later")
    return text


def _text(texts: list[str]) -> str:
    """Returns the clean text of a correction.

    Any printable character will do, also one that the model does not know: it is what the picture shows, and
    preprocess counts those outside the alphabet.
    """
    if len(texts) != 1 or not (text := clean_text(texts[0])):
        raise Refused(400, "no text", f"give what the picture shows in one field {TEXT_FIELD!r}")
    if len(text) > MAX_TEXT:
        raise Refused(422, "too long", f"{len(text)} characters; a line has up to {MAX_TEXT}")
    if not text.isprintable():
        raise Refused(422, "unprintable", "the text has characters that cannot be written")
    return text
