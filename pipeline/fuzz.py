"""Sends damaged and hostile pictures to a predictor, and holds its answers against its OpenAPI document.

Whatever arrives must get a reading or a documented refusal in the one form, without a path or a stack trace in it, from
the same processes, and memory must stay. An input follows from seed and number alone, so each can be made again.
"""

import base64
import http.client
import io
import json
import random
import re
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice
from pathlib import Path
from threading import local
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import numpy as np
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from handwriting.errors import HandwritingError
from handwriting.layout import FIELD, KEEP_HEADER
from handwriting.smoke_test import picture

BOUNDARY = "fuzz"
SECONDS = 60.0  # for an answer
WARM_UP = 200  # inputs after which memory is measured first: threads and codecs have what they keep
HOSTILE, WHOLE = 0.01, 0.02  # shares of inputs that somebody made on purpose, and of pictures as they are
HEADER = 64  # bytes at the start of a picture, which are damaged as often as all others
FORBIDDEN = re.compile(r"Traceback|\bat 0x[0-9a-f]+|(?<![\w.:/])/(?:[\w.-]+/)+[\w.-]+")  # addresses and paths
RESIDENT = "process_resident_memory_bytes"


class Input(NamedTuple):
    """What is sent: its name says how it was made."""

    name: str
    data: bytes


class Outcome(NamedTuple):
    """What came of it: 0 without an answer; `reason` is that of a refusal, `fault` what must not be, or empty."""

    name: str
    status: int
    reason: str
    seconds: float
    fault: str


# what is sent


@cache
def pictures() -> dict[str, bytes]:
    """Returns a small picture of each kind that the reader takes."""
    line = Image.open(io.BytesIO(picture())).convert("L")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    levels = np.asarray(line)
    deep, real = Image.fromarray(levels.astype(np.uint16) * 257), Image.fromarray(levels.astype(np.float32) / 255)
    clear = line.convert("RGBA")
    clear.putalpha(ImageOps.invert(line))
    frames = {"save_all": True, "append_images": [ImageOps.invert(line), line.rotate(2)]}
    kinds: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "png": (line, "PNG", {"exif": exif}), "png16": (deep, "PNG", {}), "png1": (line.convert("1"), "PNG", {}),
        "png-palette": (line.convert("P"), "PNG", {"transparency": 0}), "png-clear": (clear, "PNG", {}),
        "apng": (line, "PNG", frames), "jpeg": (line.convert("RGB"), "JPEG", {"exif": exif}),
        "jpeg-progressive": (line, "JPEG", {"progressive": True}), "jpeg-cmyk": (line.convert("CMYK"), "JPEG", {}),
        "webp": (line, "WEBP", {"exif": exif}), "webp-clear": (clear, "WEBP", {"lossless": True}),
        "webp-animated": (line, "WEBP", frames), "gif": (line, "GIF", {}), "gif-animated": (line, "GIF", frames),
        "gif-clear": (line.convert("P"), "GIF", {"transparency": 0}), "bmp": (line.convert("RGB"), "BMP", {}),
        "bmp1": (line.convert("1"), "BMP", {}), "bmp-palette": (line.convert("P"), "BMP", {}),
        **{f"tiff-{name}": (line, "TIFF", {"compression": name}) for name in (
            "raw", "packbits", "tiff_lzw", "tiff_deflate", "jpeg")},
        "tiff-fax": (line.convert("1"), "TIFF", {"compression": "group4"}), "tiff-float": (real, "TIFF", {}),
        "tiff16": (deep, "TIFF", {"exif": exif}), "tiff-cmyk": (line.convert("CMYK"), "TIFF", {}),
        "avif": (line, "AVIF", {"exif": exif}), "avif-animated": (line, "AVIF", frames),
        "pbm": (line.convert("1"), "PPM", {}), "pgm": (line, "PPM", {}), "ppm": (line.convert("RGB"), "PPM", {}),
        "pfm": (real, "PPM", {}), "jp2": (line, "JPEG2000", {}),
        "jp2-clear": (clear, "JPEG2000", {"irreversible": True}), "j2k": (line, "JPEG2000", {"no_jp2": True})}
    return {name: _encoded(image, kind, **options) for name, (image, kind, options) in kinds.items()}


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@cache
def hostile() -> dict[str, bytes]:
    """Returns what somebody would send who wants to do harm."""
    wide = Image.new("1", (7_000, 7_000), 1)
    text = PngImagePlugin.PngInfo()
    for number in range(40):
        text.add_text(f"k{number}", "0" * 2**20, zip=True)
    jpeg, gif, png = (pictures()[name] for name in ("jpeg", "gif", "png"))
    scans = _encoded(wide.convert("L"), "JPEG", progressive=True, quality=1)
    last = scans.rindex(b"\xff\xda")
    scan = scans[last:last + 2 + struct.unpack_from(">H", scans, last + 2)[0]]
    return {
        "empty": b"", "one byte": b"\x89", "text": b"A letter, no picture.\n" * 50, "zeros": bytes(100_000),
        "html": b"<!DOCTYPE html><script>alert(1)</script>", "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 640 96\n(/etc/passwd) (r) file\n",
        "pdf": b"%PDF-1.7\n%%EOF", "gzip": zlib.compress(bytes(10**6), wbits=31),
        "at the limit": _encoded(wide, "PNG"), "at the limit, gif": _encoded(wide, "GIF"),
        "at the limit, jpeg": _encoded(wide.convert("RGB"), "JPEG"),
        "over the limit": _encoded(Image.new("1", (9_000, 9_000)), "PNG"), "huge": _hollow_png(2**31 - 1, 2**31 - 1),
        "hollow": _hollow_png(6_000, 8_000), "thousands of scans": scans[:-2] + scan * 5_000 + scans[-2:],
        "texts that unfold": _encoded(wide.crop((0, 0, 64, 64)), "PNG", pnginfo=text),
        "many chunks": png[:33] + _chunk(b"abCd", b"") * 100_000 + png[33:],
        "many markers": jpeg[:2] + b"\xff\xe9\x00\x02" * 500_000 + jpeg[2:],
        "endless comment": gif[:-1] + b"\x21\xfe" + (b"\xff" + b"c" * 255) * 10_000 + b"\0;",
        "one tag, thousands of times": _tiff_of_tags(2**20, 20_000),
        "numbers as text": b"P2 1500 1500 255\n" + b"7 " * 1500 * 1500, "a long tail": png + bytes(5 * 2**20)}


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _hollow_png(width: int, height: int) -> bytes:
    """A PNG that says how large it is and holds nearly nothing."""
    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", size) + _chunk(b"IDAT", zlib.compress(bytes(1000)))


def _tiff_of_tags(size: int, count: int) -> bytes:
    """A TIFF whose directory has many tags, all of which name the same bytes."""
    tags = b"".join(struct.pack("<HHII", 40_000 + number, 7, size, 8) for number in range(count))
    return b"II*\0" + struct.pack("<I", 8 + size) + bytes(size) + struct.pack("<H", count) + tags + bytes(4)


Mutation = Callable[[random.Random, bytearray], bytes | bytearray]


def _place(rng: random.Random, data: bytearray) -> int:
    return rng.randrange(max(1, rng.choice([len(data), min(len(data), HEADER)])))


def _flip(rng: random.Random, data: bytearray) -> bytearray:
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        if data:
            data[_place(rng, data)] ^= 1 << rng.randrange(8)
    return data


def _cut(rng: random.Random, data: bytearray) -> bytearray:
    return data[:_place(rng, data)]


def _number(rng: random.Random, data: bytearray) -> bytearray:
    """Puts a number where sizes, offsets and counts are: the ones at which programs err."""
    width, place = rng.choice([1, 2, 4]), _place(rng, data)
    value = rng.choice([0, 1, 0x7f, 0xff, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, rng.randrange(2**32)])
    data[place:place + width] = (value % 2**(8 * width)).to_bytes(width, rng.choice(["big", "little"]))
    return data


def _double(rng: random.Random, data: bytearray) -> bytearray:
    start, place = _place(rng, data), _place(rng, data)
    return data[:place] + data[start:start + rng.choice([4, 64, 1024])] * rng.choice([1, 2, 100]) + data[place:]


def _remove(rng: random.Random, data: bytearray) -> bytearray:
    start = _place(rng, data)
    return data[:start] + data[start + rng.choice([1, 4, 64, 1024]):]


def _splice(rng: random.Random, data: bytearray) -> bytearray:
    """Goes on as another picture, from anywhere in it."""
    other = rng.choice(list(pictures().values()))
    return data[:_place(rng, data)] + other[rng.randrange(len(other)):]


def _disguise(rng: random.Random, data: bytearray) -> bytearray:
    """Begins as another kind."""
    count = rng.choice([2, 4, 8, 12, 32])
    data[:count] = rng.choice(list(pictures().values()))[:count]
    return data


def _append(rng: random.Random, data: bytearray) -> bytearray:
    return data + rng.choice([rng.randbytes(1000), b"<script>alert(1)</script>", *pictures().values()])


MUTATIONS: tuple[Mutation, ...] = (_flip, _cut, _number, _double, _remove, _splice, _disguise, _append)


def make_input(seed: int, number: int) -> Input:
    """Makes one input: mostly a picture with one to three mutations."""
    rng = random.Random(f"{seed}/{number}")
    share = rng.random()
    if share < HOSTILE:
        return Input(*rng.choice(list(hostile().items())))
    name, source = rng.choice(list(pictures().items()))
    data: bytes | bytearray = bytearray(source)
    if share >= HOSTILE + WHOLE:
        for mutation in rng.choices(MUTATIONS, k=rng.choice([1, 1, 2, 3])):
            name, data = f"{name} {mutation.__name__.strip('_')}", mutation(rng, bytearray(data))
    return Input(name, bytes(data))


# how it is sent, and what must come back


class Target:
    """A predictor: its routes for pictures, and the statuses that its document has for each. A context manager.

    Args:
        url: Its address.
        headers: Of every request, such as that with the token.
        secrets: What no answer may hold.

    Raises:
        HandwritingError: It does not answer.
    """

    def __init__(self, url: str, headers: dict[str, str] | None = None, secrets: Sequence[str] = ()):
        self.place = urlsplit(url).netloc
        self.headers, self.secrets = {KEEP_HEADER: "no", **(headers or {})}, secrets
        self._kept, self._connections = local(), list[http.client.HTTPConnection]()
        _, _, text = self.ask("GET", "/openapi.json")
        api = json.loads(text)
        name = api["components"]["parameters"]["name"]["schema"]["enum"][0]
        self.routes = {path.replace("{name}", name): {int(status) for status in api["paths"][path]["post"]["responses"]}
                       for path in ("/predict", "/v1/models/{name}:predict", "/v2/models/{name}/infer")}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        for connection in self._connections:
            connection.close()

    def ask(self, method: str, path: str, body: bytes | None = None,
            headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], str]:
        """Sends one request over this thread's connection; returns status, headers and text.

        Raises:
            HandwritingError: There is no answer.
        """
        if not hasattr(self._kept, "connection"):
            self._kept.connection = http.client.HTTPConnection(self.place, timeout=SECONDS)
            self._connections.append(self._kept.connection)
        connection = self._kept.connection
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            answer = connection.getresponse()
            found = answer.status, dict(answer.getheaders()), answer.read().decode()
        except (OSError, http.client.HTTPException, UnicodeDecodeError) as error:
            connection.close()
            raise HandwritingError(f"no answer from {self.place}: {type(error).__name__} {error}") from error
        if method == "GET":  # the next may be late, and the server waits some seconds only
            connection.close()
        return found

    def send(self, given: Input, path: str) -> Outcome:
        """Sends one input and judges the answer."""
        began = time.monotonic()
        try:
            status, headers, text = self.ask("POST", path, *_request(given.data, path))
        except HandwritingError as error:
            return Outcome(given.name, 0, "no answer", time.monotonic() - began, str(error))
        reason = "" if status == 200 else _reason(text)
        fault = self._fault(status, reason, path, f"{headers} {text}")
        return Outcome(given.name, status, reason, time.monotonic() - began, fault)

    def _fault(self, status: int, reason: str, path: str, shown: str) -> str:
        if status >= 500 or status not in self.routes[path]:
            return f"status {status}: {shown}"
        if status != 200 and not reason:
            return f"not the form of a refusal: {shown}"
        told = FORBIDDEN.search(shown) or next((secret for secret in self.secrets if secret in shown), None)
        return f"tells what it should not: {shown}" if told else ""

    def resident(self) -> float:
        """Returns the resident memory of all its processes in MiB."""
        found = re.search(rf"^{RESIDENT} (\S+)", self.ask("GET", "/metrics")[2], re.MULTILINE)
        return float(found[1]) / 2**20 if found else float("nan")


def _request(data: bytes, path: str) -> tuple[bytes, dict[str, str]]:
    """Returns body and headers."""
    if path == "/predict":
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{FIELD}"; filename="line.png"\r\n\r\n'
        return (head.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode(),
                {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})
    encoded = base64.b64encode(data).decode()
    body = {"instances": [{"b64": encoded}]} if path.startswith("/v1") else {
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [encoded]}]}
    return json.dumps(body).encode(), {"Content-Type": "application/json"}


def _reason(text: str) -> str:
    """Returns the reason of a refusal in the one form, else nothing."""
    try:
        body = json.loads(text)
        return body["error"] if set(body) == {"error", "message"} and body["message"] else ""
    except (ValueError, TypeError, KeyError):
        return ""


class Report(NamedTuple):
    """What all inputs together gave; `workers` are the process ids before and after, where they are known."""

    outcomes: list[Outcome]
    workers: tuple[list[int], list[int]]
    resident: tuple[float, float]
    seconds: float

    @property
    def faults(self) -> list[Outcome]:
        """What must not be."""
        return [outcome for outcome in self.outcomes if outcome.fault]

    def summary(self) -> dict[str, Any]:
        """Returns the report as JSON; `failed` where anything was not as it must be."""
        return {"counts": {f"{status} {reason}".strip(): count for (status, reason), count in _counts(self.outcomes)},
                "faults": len(self.faults), "workers_before": self.workers[0], "workers_after": self.workers[1],
                "resident_mib": [round(size) for size in self.resident], "seconds": round(self.seconds),
                "slowest_seconds": round(max(outcome.seconds for outcome in self.outcomes), 2),
                "failed": len(self.faults) + (self.workers[0] != self.workers[1])}


def _counts(outcomes: Iterable[Outcome]) -> list[tuple[tuple[int, str], int]]:
    return sorted(Counter((outcome.status, outcome.reason) for outcome in outcomes).items())


def fuzz(target: Target, count: int, seed: int = 0, clients: int = 2, failures: Path | None = None,
         pid: int | None = None) -> Report:
    """Sends many inputs, after a warm-up that has each hostile one.

    Args:
        target: Where.
        count: Inputs, without those of the warm-up.
        seed: Decides which.
        clients: That send at the same time.
        failures: Folder for inputs whose answer was wrong; made where there are any.
        pid: Of the server's first process, where it runs on this machine (Linux), for the ids of its workers.
    """
    paths = list(target.routes)

    def one(number: int, given: Input) -> Outcome:
        path = random.Random(f"{seed}/{number}/path").choice(paths)
        return send_and_keep(target, given, path, failures and failures / f"{seed}-{number}")

    with ThreadPoolExecutor(clients) as pool:
        warm = [*hostile().items(), *islice(pictures().items(), WARM_UP)]
        outcomes = list(pool.map(one, range(-len(warm), 0), (Input(*item) for item in warm)))
        before, resident, began = workers(pid), target.resident(), time.monotonic()
        outcomes += pool.map(lambda number: one(number, make_input(seed, number)), range(count))
    return Report(outcomes, (before, workers(pid)), (resident, target.resident()), time.monotonic() - began)


def send_and_keep(target: Target, given: Input, path: str, file: Path | None) -> Outcome:
    """Sends one input, and writes it to a file where the answer was wrong."""
    outcome = target.send(given, path)
    if outcome.fault and file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(given.data)
    return outcome


def again(target: Target, files: Iterable[Path]) -> Report:
    """Sends files to every route."""
    before, began = target.resident(), time.monotonic()
    outcomes = [target.send(Input(str(file), file.read_bytes()), path) for file in files for path in target.routes]
    return Report(outcomes, ([], []), (before, target.resident()), time.monotonic() - began)


def workers(pid: int | None) -> list[int]:
    """Returns the ids of a process's children, sorted."""
    if pid is None:
        return []
    return sorted(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split())


def table(report: Report) -> str:
    """Returns a report as a Markdown table, and what was wrong."""
    rows = [f"| {status} | {reason} | {count} |" for (status, reason), count in _counts(report.outcomes)]
    slowest = max(report.outcomes, key=lambda outcome: outcome.seconds)
    before, after = report.workers
    return "\n".join([
        "| status | reason | inputs |", "|---|---|---|", *rows, "",
        f"{len(report.outcomes)} inputs in {report.seconds:.0f} s; workers {before} before, {after} after; resident "
        f"{report.resident[0]:.0f} MiB before, {report.resident[1]:.0f} MiB after; slowest answer "
        f"{slowest.seconds:.1f} s ({slowest.name}, {slowest.status} {slowest.reason})",
        *(f"WRONG: {outcome.name}: {outcome.fault[:500]}" for outcome in report.faults[:20])])
