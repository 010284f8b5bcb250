"""Turns everything that goes wrong with a request into an answer of one form: `{"error": ..., "message": ...}`."""

import logging

from flask import Flask, Response, current_app, g, jsonify, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected, HTTPException, MethodNotAllowed

from handwriting.access import Denied
from handwriting.errors import ImageError
from handwriting.protocols import Refused

log = logging.getLogger(__name__)

IMAGE_STATUS = {"empty": 400, "too small": 400, "too wide": 400, "too large": 413}  # any other reason: 415
RETRY_AFTER = 5  # seconds, told with every 503
DISCARD = 4  # times the limit: how much of a refused body is read all the same


def add_handlers(app: Flask) -> None:
    """Lets an application answer so."""
    app.register_error_handler(Refused, _refused)
    app.register_error_handler(Denied, _denied)
    app.register_error_handler(ImageError, _unusable_picture)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(ParseException, _broken_body)
    app.register_error_handler(Exception, _bug)


def _error(status: int, reason: str, message: str) -> Response:
    """The one form of every answer that is not 200."""
    g.reason = reason
    response = jsonify(error=reason, message=message)
    response.status_code = status
    if status == 503:
        response.headers["Retry-After"] = str(RETRY_AFTER)
    return response


def _denied(error: Denied) -> Response:
    _discard_body()
    response = _error(401, error.reason, str(error))
    response.headers["WWW-Authenticate"] = f'{error.scheme} realm="handwriting"'
    return response


def _refused(error: Refused) -> Response:
    return _error(error.status, error.reason, str(error))


def _unusable_picture(error: ImageError) -> Response:
    return _error(IMAGE_STATUS.get(error.reason, 415), error.reason, str(error))


def _http_error(error: HTTPException) -> Response:
    """What Flask and Werkzeug refuse themselves: unknown routes, wrong methods, bodies over the limit, ..."""
    status = error.code or 500
    if isinstance(error, ClientDisconnected):
        return _error(408, "too slow", "the request did not arrive whole in time; send it again, or a smaller picture")
    if status == 413:
        limit = current_app.config["MAX_CONTENT_LENGTH"]
        _discard_body()
        return _error(413, "too large", f"the request is over {limit} bytes or has too many parts; "
                      "send a smaller picture")
    response = _error(status, error.name.lower(), error.description or error.name)
    if isinstance(error, MethodNotAllowed):
        response.allow.update(error.valid_methods or [])
    return response


def _discard_body() -> None:
    """Reads and forgets the body: a client that still sends would see a broken connection, not the answer."""
    if "Expect" in request.headers:  # such a client waits for our answer before it sends
        return
    most = DISCARD * current_app.config["MAX_CONTENT_LENGTH"]
    left = min(most, request.content_length or most)
    try:
        while left > 0 and (chunk := request.environ["wsgi.input"].read(min(left, 2**16))):
            left -= len(chunk)
    except (OSError, ParseException):  # the client is gone, or out of step
        return


def _broken_body(error: ParseException) -> Response:
    """The server finds out as the body is read: its pieces have no sizes, or no end."""
    return _error(400, "bad request", "the body does not come in pieces as HTTP has them; send its length instead")


def _bug(error: Exception) -> Response:
    log.error("internal error at %s %s", request.method, request.url_rule, exc_info=error)
    return _error(500, "internal error", "the server could not answer; its log tells why")
