"""The HTTP application that reads lines: `POST /predict` with a picture gives its text.

Bytes become a reading in `Predictor.read` alone, and everything that goes wrong becomes an answer in
`handwriting.refusals` alone: KServe's protocols (`handwriting.protocols`) are further routes around these two.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flask import Flask, Response, current_app, jsonify, request

from handwriting import ml_backend, openapi, refusals
from handwriting.access import check
from handwriting.admission import Gate
from handwriting.cores import cores
from handwriting.errors import ImageError
from handwriting.layout import FIELD, MODEL_NAME, VERSION_HEADER
from handwriting.monitoring import Metrics, Monitor
from handwriting.page import TEXT_FIELD, keep_correction, page, tell_safety, wants_page
from handwriting.protocols import Refused, add_routes, reading_json, wants_kept
from handwriting.user_data import UserPictures

if TYPE_CHECKING:  # the application itself needs no ONNX Runtime: the server loads the reader after its fork
    from handwriting.ctc import Reading
    from handwriting.profile import Profile
    from handwriting.reader import Reader

MAX_BYTES = 10 * 2**20
EXAMPLE = f"send multipart/form-data, as `curl -F {FIELD}=@line.png` does"


class Predictor:
    """What all routes share.

    Attributes:
        reader: The loaded model; None until there is one, and every reading is refused with 503.
        store: Keeps the pictures that could be read; None keeps nothing.
        name: The model's name in KServe's protocols.
        metrics: Counts readings and kept pictures.
        release: What its version is called; empty for the version of the model alone.
        gate: Lets in what can be read soon.
    """

    def __init__(self, reader: "Reader | None", store: UserPictures | None, name: str, metrics: Metrics,
                 release: str = "", gate: Gate | None = None):
        self.reader, self.store, self.release = reader, store, release
        self.gate = gate or Gate.of(cores())
        self.name, self.metrics = name, metrics
        if store is not None:
            store.report_to(metrics.count_pictures)

    @property
    def version(self) -> str:
        """The release, or the version of the loaded model; empty without one."""
        return (self.release or self.reader.version) if self.reader else ""

    @property
    def profile(self) -> "Profile | None":
        """What the loaded model learned from, in figures; None without one, or where its bundle does not say."""
        return self.reader.profile if self.reader else None

    def loaded(self) -> "Reader":
        """Returns the model.

        Raises:
            Refused: It is not loaded yet.
        """
        if self.reader is None:
            raise Refused(503, "not ready", "the model is still loading; try again in a few seconds")
        return self.reader

    def read(self, pictures: Sequence[bytes], keep: bool = True, where: str = "") -> "list[Reading]":
        """Reads pictures, and hands them to the store once all could be read.

        Args:
            pictures: One line each.
            keep: False keeps none of them.
            where: Name of the list they came in, for messages; empty where there is but one picture.

        Raises:
            ImageError: A picture cannot be used; the message names it.
            Refused: The model is not loaded yet, or too many requests wait already.
        """
        names = [where and f"{where}[{number}]" for number in range(len(pictures))]
        readings = self.gate.map(self._read_one, zip(pictures, names))
        self.metrics.count_readings(readings, self.profile)
        if keep and self.store is not None:
            for picture, reading in zip(pictures, readings):
                self.store.offer(picture, {**reading_json(reading, self.version), "width": reading.width,
                                           "language_model": self.loaded().language_model is not None})
        return readings

    def _read_one(self, named: tuple[bytes, str]) -> "Reading":
        picture, name = named
        try:
            return self.loaded().read([picture])[0]
        except ImageError as error:
            if name:
                raise ImageError(error.reason, f"{name}: {error}") from error
            raise


def create_app(reader: "Reader | None", store: UserPictures | None = None, max_bytes: int = MAX_BYTES,
               name: str = MODEL_NAME, release: str = "", data_uri: str = "", gate: Gate | None = None) -> Flask:
    """Makes the application.

    Args:
        reader: The loaded model; where None, set `app.extensions["predictor"].reader` when it is there.
        store: Where users' pictures are kept, or None.
        max_bytes: Largest request body in bytes.
        name: The model's name in KServe's protocols.
        release: What its version is called; empty for the version of the model alone.
        data_uri: Where Label Studio's tasks have their pictures; empty for nowhere.
        gate: Lets in what can be read soon; None for one by the cores there are.
    """
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = max_bytes
    app.url_map.merge_slashes = False  # else `//` is sent on to an address of the client's choice, its Host header
    app.json.ensure_ascii = False  # type: ignore[attr-defined]
    app.json.sort_keys = False  # type: ignore[attr-defined]
    metrics = Metrics()
    predictor = app.extensions["predictor"] = Predictor(reader, store, name, metrics, release, gate)
    app.add_url_rule("/predict", view_func=predict, methods=["POST"])
    app.add_url_rule("/correction", view_func=correct, methods=["POST"])
    app.add_url_rule("/healthz", view_func=alive)
    app.add_url_rule("/readyz", view_func=ready)
    app.add_url_rule("/", view_func=index)
    app.add_url_rule("/openapi.json", view_func=describe)
    add_routes(app)
    ml_backend.add_routes(app, data_uri)
    Monitor(metrics, lambda: predictor.version, lambda: predictor.profile).watch(app)
    app.before_request(_admit)
    app.after_request(_tell_version)
    app.after_request(tell_safety)
    refusals.add_handlers(app)
    return app


def _predictor() -> Predictor:
    return current_app.extensions["predictor"]


def _admit() -> None:
    """Refuses strangers, and what would have to wait too long, before its body is read.

    Whoever only looks needs no token: probes and Prometheus have none, the page must be there to ask for it, and
    neither it nor the document tells anything of pictures. Label Studio's requests are `ml_backend`'s to check.
    """
    if request.method == "POST":
        if not ml_backend.is_asked():
            check(request.authorization)
        _predictor().gate.check()
    if request.content_length is not None:
        request.environ.pop("wsgi.input_terminated", None)  # has Werkzeug count: a body cut short is no shorter one


def predict() -> Response:
    """`POST /predict`: the text of the line, or JSON with confidences where `Accept` asks for it.

    A JSON body is Label Studio's, whose ML backend has a route of the same name.
    """
    if ml_backend.is_asked():
        return ml_backend.predict_tasks()
    [reading] = _predictor().read([_uploaded_picture()], wants_kept())
    if request.accept_mimetypes.best_match(["text/plain", "application/json"]) == "application/json":
        return jsonify(reading_json(reading, _predictor().version))
    return Response(reading.text, content_type="text/plain; charset=utf-8")


def correct() -> Response:
    """`POST /correction`: a picture, and what a person says it shows; both are kept."""
    predictor, picture = _predictor(), _uploaded_picture()
    text = keep_correction(predictor.store, picture, request.form.getlist(TEXT_FIELD), predictor.version)
    if predictor.reader:
        predictor.metrics.count_correction(bool(predictor.reader.alphabet.unknown(text)))
    return Response(status=204)


def alive() -> Response:
    """`GET /healthz`: the process answers."""
    return jsonify(status="alive")


def ready() -> Response:
    """`GET /readyz`: the model is loaded."""
    predictor = _predictor()
    predictor.loaded()
    return jsonify(ready=True, version=predictor.version)


def index() -> Response:
    """`GET /`: the page for browsers, and for all others what can be asked for."""
    predictor = _predictor()
    response = page(predictor.store is not None) if wants_page() else jsonify(
        status="alive", version=predictor.version, routes=openapi.summaries(predictor.name))
    response.vary.add("Accept")
    return response


def describe() -> Response:
    """`GET /openapi.json`: all that can be asked for and what is answered, for people and programs."""
    predictor = _predictor()
    return jsonify(openapi.document(predictor.name, predictor.version, current_app.config["MAX_CONTENT_LENGTH"]))


def _uploaded_picture() -> bytes:
    """Returns the bytes of the one file of a multipart request.

    Raises:
        Refused: There is no such file, or more than one.
        ImageError: "empty".
    """
    if request.mimetype != "multipart/form-data":
        raise Refused(400, "no multipart", f"the request is {request.mimetype or 'without a content type'}; {EXAMPLE}")
    files = [file for _, file in request.files.items(multi=True)]
    if not request.files.getlist(FIELD):
        raise Refused(400, "no file", f"the request has no file in the field {FIELD!r}; {EXAMPLE}")
    if len(files) > 1:
        raise Refused(400, "many files", f"the request has {len(files)} files; send one picture a request")
    picture = files[0].read()
    if not picture:
        raise ImageError("empty", "the picture has 0 bytes; upload it again")
    return picture


def _tell_version(response: Response) -> Response:
    if version := _predictor().version:
        response.headers[VERSION_HEADER] = version
    return response
