"""Who may ask the predictor: those with its token, and Label Studio with its password. Where neither is set, anybody.

Both come from the environment, for a server and for those who ask one, and are in no message, log or manifest.
"""

import hmac
import os
from typing import TYPE_CHECKING

from handwriting.errors import ConfigError, HandwritingError
from handwriting.layout import BACKEND_PASSWORD, TOKEN

if TYPE_CHECKING:
    from werkzeug.datastructures import Authorization


class Denied(HandwritingError):
    """A request without the secret that it needs; `scheme` is how to send it, `reason` what clients can test for."""

    def __init__(self, scheme: str, reason: str, message: str):
        super().__init__(message)
        self.scheme, self.reason = scheme, reason


def headers() -> dict[str, str]:
    """Returns what a request to a predictor has to have: its token, where this environment has one.

    Raises:
        ConfigError: It could not be sent.
    """
    token = _secret(TOKEN)
    if not token.isascii() or not token.isprintable() or " " in token:  # a client's error would show it
        raise ConfigError(f"{TOKEN} has characters that no header can have: take letters and digits")
    return {"Authorization": f"Bearer {token}"} if token else {}


def check(given: "Authorization | None") -> None:
    """Makes sure that a request may be answered.

    Raises:
        Denied: There is a token, and the request has another or none.
    """
    wanted = _secret(TOKEN)
    if wanted and not _same(_bearer(given), wanted):
        raise Denied("Bearer", "wrong token", f"send the token of {TOKEN} as `Authorization: Bearer TOKEN`")


def check_label_studio(given: "Authorization | None") -> None:
    """Makes sure that Label Studio asks, whose only way is Basic Auth: with its password, or the token as one.

    Raises:
        Denied: A password or a token is set, and the request has neither.
    """
    token, password = _secret(TOKEN), _secret(BACKEND_PASSWORD)
    sent = (given.password if given else None) or _bearer(given)
    if (token or password) and not any([_same(sent, wanted) for wanted in (token, password) if wanted]):
        raise Denied("Basic", "wrong password",
                     f"send the password of {BACKEND_PASSWORD} by Basic Auth, with any user, or the token of {TOKEN}")


def _secret(variable: str) -> str:
    """A secret that was written with `echo` ends with a line break."""
    return os.environ.get(variable, "").strip()


def _bearer(given: "Authorization | None") -> str:
    return (given.token if given and given.type == "bearer" else None) or ""


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
