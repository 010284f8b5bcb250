"""What those who send pictures to a predictor share: the form of a request, and the server's memory."""

import re

from handwriting.layout import FIELD

BOUNDARY = "----line"
RESIDENT = "process_resident_memory_bytes"  # in /metrics: of all workers together


def multipart(picture: bytes) -> tuple[bytes, dict[str, str]]:
    """Returns body and headers of a request to `/predict`, as curl's `-F file=@line.png` makes it."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{FIELD}"; filename="line.png"\r\n\r\n'
    return (head.encode() + picture + f"\r\n--{BOUNDARY}--\r\n".encode(),
            {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})


def resident(metrics: str) -> float:
    """Returns the memory of all workers together in MB, from the text of `/metrics`; NaN where it does not tell."""
    found = re.search(rf"^{RESIDENT} (\S+)", metrics, re.MULTILINE)
    return float(found[1]) / 1e6 if found else float("nan")
