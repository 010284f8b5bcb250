"""The page at `/`: what it answers to whom, corrections, and people's ways through it in a real Chromium."""

import base64
import io
import json
import os
import re
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from helpers import TEXT, FakeReader, drawing, encoded
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from test_serving import READER, start, wait_until_ready
from werkzeug.serving import make_server

from handwriting.ctc import Reading
from handwriting.labels import LabelConfig
from handwriting.layout import TOKEN
from handwriting.page import MAX_TEXT
from handwriting.predictor import create_app
from handwriting.user_data import KeepConfig, UserPictures
from pipeline.ports import free_port

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
FLAGS = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
SECRET = "t0ken-of-the-tests"
TIMEOUT = 20_000  # ms: a busy machine is no fault of the page
HTML = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
PHONE = {"viewport": {"width": 390, "height": 1180}, "device_scale_factor": 2, "has_touch": True, "is_mobile": True}


class Doubtful(FakeReader):
    """Reads `text` in each picture once it may, surer of some characters than of others; remembers the pictures."""

    def __init__(self):
        self.text, self.pictures, self.may_read = TEXT, [], threading.Event()
        self.may_read.set()

    def read(self, pictures):
        super().read(pictures)
        assert self.may_read.wait(60)
        self.pictures += pictures
        sure = [0.97] * len(self.text)
        sure[1:2], sure[3:4] = [0.74], [0.41]
        return [Reading(self.text, 0.88, tuple(sure[:len(self.text)]))] * len(pictures)


@contextmanager
def pictures_in(folder: Path):
    store = UserPictures(str(folder / "data"), KeepConfig(spool=str(folder / "spool")))
    try:
        yield store
    finally:
        store.close()


def kept(folder: Path) -> list[tuple[bytes, dict]]:
    """The pictures that were kept, each with the JSON beside it."""
    data = folder / "data" / "user_data"
    return [(path.read_bytes(), json.loads((data / "readings" / f"{path.stem}.json").read_text("utf-8")))
            for path in sorted((data / "images").glob("*.png"))]


# over HTTP


@pytest.fixture
def client():
    return create_app(FakeReader()).test_client()


def correct(client, text=TEXT, picture=None, **options):
    texts = text if isinstance(text, list) else [text]
    data = {"file": (io.BytesIO(encoded(drawing()) if picture is None else picture), "line.png"), "text": texts}
    return client.post("/correction", data=data, **options)


@pytest.mark.parametrize("accept", [HTML["Accept"], "text/html", "text/html, application/json;q=0.9"])
def test_browsers_get_the_page(client, accept):
    answer = client.get("/", headers={"Accept": accept})
    assert (answer.status_code, answer.content_type) == (200, "text/html; charset=utf-8")
    assert answer.data.startswith(b"<!DOCTYPE html>")
    assert "Accept" in answer.headers["Vary"]


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "application/json, text/html", "text/plain"])
def test_probes_and_programs_get_json(client, accept):
    answer = client.get("/", headers={"Accept": accept} if accept else {})
    assert answer.json["status"] == "alive" and "POST /correction" in answer.json["routes"]
    assert "Accept" in answer.headers["Vary"]


def test_the_page_may_run_its_own_script_and_ask_its_own_server_alone(client):
    answer = client.get("/", headers=HTML)
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert (policy["connect-src"], policy["img-src"]) == ("'self'", "blob: data:")
    for part in ("script-src", "style-src"):
        assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", policy[part])


def test_the_page_names_no_other_address(client):
    assert not re.findall(rb"https?:| src=|@import|\burl\(|href=\"(?!data:,\")", client.get("/", headers=HTML).data)


@pytest.mark.parametrize("path", ["/", "/healthz", "/nothing", "/predict", "/metrics"])
def test_every_answer_tells_browsers_to_be_careful(client, path):
    headers = client.get(path).headers
    assert headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "no-referrer")


def test_a_correction_is_kept_beside_its_picture(tmp_path):
    picture = encoded(drawing())
    with pictures_in(tmp_path) as store:
        answer = correct(create_app(FakeReader(), store).test_client(), "  Đươ\u0300ng\u200b Láng ", picture)
        assert (answer.status_code, answer.data) == (204, b"")
    [(data, beside)] = kept(tmp_path)
    assert data == picture
    assert beside.items() >= {"correction": "Đường Láng", "version": "0123abcd"}.items()


def test_a_correction_may_have_characters_that_the_model_does_not_know(tmp_path):
    with pictures_in(tmp_path) as store:
        assert correct(create_app(FakeReader(), store).test_client(), "Straße № 5").status_code == 204
    assert kept(tmp_path)[0][1]["correction"] == "Straße № 5"


@pytest.mark.parametrize(("text", "status", "reason"), [
    ([], 400, "no text"), (["a", "b"], 400, "no text"), (" \u200b\n", 400, "no text"),
    ("a" * (MAX_TEXT + 1), 422, "too long"), ("a\ue000", 422, "unprintable"), ("a\U000e0080", 422, "unprintable")])
def test_a_text_that_no_line_can_have_is_refused(tmp_path, text, status, reason):
    with pictures_in(tmp_path) as store:
        answer = correct(create_app(FakeReader(), store).test_client(), text)
    assert (answer.status_code, answer.json["error"]) == (status, reason)
    assert answer.json["message"] and not kept(tmp_path)


@pytest.mark.parametrize(("picture", "status", "reason"), [
    (b"", 400, "empty"), (b"%PDF", 415, "not a picture"), (encoded(Image.new("L", (4000, 20))), 400, "too wide")])
def test_a_correction_of_what_is_no_line_is_refused(tmp_path, picture, status, reason):
    with pictures_in(tmp_path) as store:
        answer = correct(create_app(FakeReader(), store).test_client(), picture=picture)
    assert (answer.status_code, answer.json["error"]) == (status, reason)
    assert not kept(tmp_path)


def test_a_correction_without_a_picture_is_refused(client):
    answer = client.post("/correction", data={"text": "a"}, content_type="multipart/form-data")
    assert (answer.status_code, answer.json["error"]) == (400, "no file")


def test_a_service_that_keeps_nothing_takes_no_corrections(client):
    answer = correct(client)
    assert (answer.status_code, answer.json["error"]) == (409, "keeps nothing")


def test_a_correction_without_room_is_refused_not_forgotten_in_silence(tmp_path):
    with pictures_in(tmp_path) as store:
        client = create_app(FakeReader(), store).test_client()
    answer = correct(client)  # the store is closed
    assert (answer.status_code, answer.json["error"], answer.headers["Retry-After"]) == (503, "not kept", "5")


@pytest.mark.parametrize(("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 204),
                                              ("none", 204)])
def test_pages_of_other_sites_cannot_correct(tmp_path, site, status):
    with pictures_in(tmp_path) as store:
        client = create_app(FakeReader(), store).test_client()
        assert correct(client, headers={"Sec-Fetch-Site": site}).status_code == status
    assert len(kept(tmp_path)) == (status == 204)


def test_no_correction_is_logged(tmp_path, caplog):
    caplog.set_level("DEBUG")
    with pictures_in(tmp_path) as store:
        correct(create_app(FakeReader(), store).test_client())
    assert TEXT not in caplog.text and "line.png" not in caplog.text


def test_a_correction_may_be_as_long_as_a_label():
    assert MAX_TEXT == LabelConfig().max_characters


# in a browser


class Served:
    """A server of the application on loopback, and where it keeps what users send."""

    def __init__(self, folder: Path, keeps: bool = True):
        self.folder, self.reader = folder, Doubtful()
        self.store = UserPictures(str(folder / "data"), KeepConfig(spool=str(folder / "spool"))) if keeps else None
        self.server = make_server("127.0.0.1", 0, create_app(self.reader, self.store), threaded=True)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def kept(self) -> list[tuple[bytes, dict]]:
        """Ends the store, and returns what it kept."""
        self.store.close()
        return kept(self.folder)

    def end(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()
        if self.store is not None:
            self.store.close()


@pytest.fixture
def served(tmp_path):
    server = Served(tmp_path)
    yield server
    server.end()


@pytest.fixture(scope="module")
def chromium():
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no Chromium: install one, or name it in the variable CHROMIUM (looked for {', '.join(BROWSERS)})")
    expect.set_options(timeout=TIMEOUT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """Opens pages, and remembers what they complain about and whom they ask."""

    def __init__(self, browser: Browser):
        self.browser, self.complaints, self.addresses = browser, [], []

    def __call__(self, url: str, locale: str = "en-US", **options) -> Page:
        page = self.browser.new_context(locale=locale, **options).new_page()
        page.set_default_timeout(TIMEOUT)
        page.on("console", lambda message: message.type in ("error", "warning") and self.complaints.append(
            message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.addresses.append(request.url))
        page.goto(url)
        return page


@pytest.fixture
def visit(chromium):
    """Opens a page; at the end it must have asked its own server alone, and complained about nothing."""
    visit = Visit(chromium)
    yield visit
    for context in chromium.contexts:
        context.close()
    assert not visit.complaints
    origins = {address.split("/")[2] for address in visit.addresses if not address.startswith(("blob:", "data:"))}
    assert len(origins) == 1


def line(folder: Path, number: int = 0) -> Path:
    """A picture of a line to upload."""
    path = folder / f"line-{number}.png"
    path.write_bytes(encoded(drawing(number, (640, 96))))
    return path


def drop(page: Page, *paths: Path) -> None:
    """Drops files as a person would, from the file manager over the middle of the page."""
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 200, "data": {
            "items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}})


def paste(page: Page, picture: bytes) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate("""async data => {
        const blob = new Blob([Uint8Array.from(atob(data), char => char.charCodeAt(0))], {type: 'image/png'});
        await navigator.clipboard.write([new ClipboardItem({'image/png': blob})])}""",
                  base64.b64encode(picture).decode())
    page.keyboard.press("Control+V")


def write(page: Page) -> None:
    """Draws two strokes with the mouse."""
    area = page.locator("#ink").bounding_box()
    for start_x in (40, 160):
        page.mouse.move(area["x"] + start_x, area["y"] + 40)
        page.mouse.down()
        page.mouse.move(area["x"] + start_x + 50, area["y"] + 100, steps=5)
        page.mouse.up()


def drag_a_finger(page: Page, where: str) -> None:
    """Moves a finger 150 px to the right and 40 down.

    Slowly, as people do: Chromium takes a hasty move for a fling, and the next tap for its end.
    """
    area = page.locator(where).bounding_box()
    session = page.context.new_cdp_session(page)
    for kind, step in [("touchStart", 0), *(("touchMove", step) for step in range(1, 6)), ("touchEnd", None)]:
        points = [] if step is None else [{"x": area["x"] + 40 + 30 * step, "y": area["y"] + 50 + 8 * step}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        page.wait_for_timeout(80)


def text_of(page: Page) -> str:
    """The newest reading, as people see it."""
    expect(page.locator(".facts").first).not_to_be_empty()
    return page.locator(".chars").first.text_content()


def test_a_picture_that_is_chosen_is_read(visit, served, tmp_path):
    page = visit(served.url)
    expect(page).to_have_title("Read handwriting")
    page.set_input_files("#file", line(tmp_path))
    assert text_of(page) == TEXT
    expect(page.locator(".facts")).to_have_text(re.compile(r"^Confidence 88 % · \d+ ms · model 0123abcd$"))
    expect(page.locator("#say")).to_have_text(TEXT)  # told to screen readers
    expect(page.locator("article img")).to_have_js_property("naturalWidth", 640)
    page.screenshot(path=tmp_path / "desktop.png", full_page=True)


def test_the_page_says_that_it_is_busy(visit, served, tmp_path):
    page = visit(served.url)
    served.reader.may_read.clear()
    page.set_input_files("#file", line(tmp_path))
    expect(page.locator(".state")).to_have_text("Reading…")
    expect(page.locator("#say")).to_have_text("Reading…")
    served.reader.may_read.set()
    assert text_of(page) == TEXT
    expect(page.locator(".state")).to_be_hidden()


def test_doubts_are_shown_in_words_and_by_the_form_of_the_line(visit, served, tmp_path):
    page = visit(served.url)
    page.set_input_files("#file", line(tmp_path))
    expect(page.locator(".unsure")).to_have_text(f"Unsure of “{TEXT[1]}” 74 %, “{TEXT[3]}” 41 %")
    styles = page.locator(".chars b").evaluate_all(
        "all => all.map(b => [b.title, getComputedStyle(b).borderBottomStyle])")
    assert styles[:4] == [[f"“{TEXT[0]}” 97 %", "solid"], [f"“{TEXT[1]}” 74 %", "dashed"],
                          [f"“{TEXT[2]}” 97 %", "solid"], [f"“{TEXT[3]}” 41 %", "dotted"]]


def test_several_pictures_that_are_dropped_are_read_one_after_the_other(visit, served, tmp_path):
    page = visit(served.url)
    paths = [line(tmp_path, number) for number in range(3)]
    drop(page, *paths)
    expect(page.locator(".facts").filter(has_text="Confidence")).to_have_count(3)
    assert served.reader.pictures == [path.read_bytes() for path in paths]


def test_a_picture_that_is_pasted_is_read(visit, served):
    page = visit(served.url)
    paste(page, encoded(drawing(size=(320, 48))))
    assert text_of(page) == TEXT


def test_what_is_written_on_the_page_is_read(visit, served, tmp_path):
    page = visit(served.url)
    page.click("text=Write by hand")
    write(page)
    page.click("text=Undo")
    page.click("text=Read it")
    assert text_of(page) == TEXT
    [picture] = served.reader.pictures
    drawn = np.asarray(Image.open(io.BytesIO(picture)).convert("L"))
    assert drawn.shape == pytest.approx((168, 148), abs=6)  # twice 60 x 50, and 24 around: one stroke, cut out
    assert drawn[0].min() == drawn[:, 0].min() == 255 and drawn.min() < 50
    write(page)  # the page is white again
    page.click("text=Clear")
    page.click("text=Read it")
    expect(page.locator("#say")).to_have_text("Write one line with mouse, finger or pen")
    assert len(served.reader.pictures) == 1


def test_a_line_of_a_larger_picture_is_read_alone(visit, served, tmp_path):
    page = visit(served.url)
    (tmp_path / "letter.png").write_bytes(encoded(drawing(size=(600, 400))))
    page.set_input_files("#file", tmp_path / "letter.png")
    expect(page.locator(".part")).to_have_text("Drag over one line to read it alone.")
    assert text_of(page) == TEXT
    area = page.locator("article img").bounding_box()
    page.mouse.move(area["x"] + 10, area["y"] + 20)
    page.mouse.down()
    page.mouse.move(area["x"] + 310, area["y"] + 80, steps=4)
    page.mouse.up()
    expect(page.locator("article")).to_have_count(2)
    expect(page.locator(".facts").filter(has_text="Confidence")).to_have_count(2)
    assert Image.open(io.BytesIO(served.reader.pictures[1])).size == pytest.approx((300, 60), abs=2)


def test_a_correction_arrives_beside_its_picture(visit, served, tmp_path):
    page = visit(served.url)
    page.set_input_files("#file", line(tmp_path))
    page.click("text=That’s wrong")
    assert page.input_value("textarea") == TEXT  # to be mended, not typed anew
    page.fill("textarea", "Số 49 Đường Lý Thường Kiệt")
    page.click("text=Send")
    expect(page.locator(".sent")).to_have_text("Thank you!")
    page.screenshot(path=tmp_path / "corrected.png", full_page=True)
    read, corrected = sorted(served.kept(), key=lambda one: "correction" in one[1])
    assert read[0] == corrected[0] == line(tmp_path).read_bytes()
    assert corrected[1]["correction"] == "Số 49 Đường Lý Thường Kiệt"
    assert corrected[1]["picture"] == read[1]["picture"]  # by which the weekly report finds what was misread


def test_a_picture_is_not_kept_where_its_owner_says_so(visit, served, tmp_path):
    page = visit(served.url)
    page.uncheck("#keep")
    page.set_input_files("#file", line(tmp_path))
    assert text_of(page) == TEXT
    page.reload()
    expect(page.locator("#keep")).not_to_be_checked()
    assert served.kept() == []


def test_a_service_that_keeps_nothing_says_so_and_asks_for_no_corrections(visit, tmp_path):
    served = Served(tmp_path, keeps=False)
    try:
        page = visit(served.url)
        page.set_input_files("#file", line(tmp_path))
        assert text_of(page) == TEXT
        expect(page.get_by_text("This service keeps no pictures.")).to_be_visible()
        expect(page.locator("#keep")).to_be_hidden()
        expect(page.locator("summary")).to_be_hidden()
    finally:
        served.end()


def test_the_text_is_copied(visit, served, tmp_path):
    page = visit(served.url, permissions=["clipboard-read", "clipboard-write"])
    page.set_input_files("#file", line(tmp_path))
    page.click("text=Copy")
    expect(page.locator(".copy")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == TEXT


def test_everything_can_be_done_with_the_keyboard(visit, served, tmp_path):
    page = visit(served.url)
    page.on("filechooser", lambda chooser: None)  # no dialog opens from now on; asked for with the key it may be late

    def tab_to(selector: str) -> None:
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.locator(selector).evaluate("one => one === document.activeElement"):
                return
        raise AssertionError(f"{selector} is not reached")

    tab_to("#file")
    assert page.locator("label[for=file]").evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(line(tmp_path))
    assert text_of(page) == TEXT
    tab_to(".copy")
    page.keyboard.press("Enter")
    expect(page.locator(".copy")).to_have_text("Copied")
    tab_to("summary")
    page.keyboard.press("Enter")
    tab_to("textarea")
    page.keyboard.press("End")
    page.keyboard.type("!")
    page.keyboard.press("Enter")
    expect(page.locator(".sent")).to_have_text("Thank you!")
    assert f"{TEXT}!" in [beside.get("correction") for _, beside in served.kept()]


def test_vietnamese_browsers_get_vietnamese_until_another_choice_is_made(visit, served, tmp_path):
    page = visit(served.url, locale="vi-VN")
    expect(page).to_have_title("Đọc chữ viết tay")
    expect(page.locator("html")).to_have_attribute("lang", "vi")
    page.set_input_files("#file", line(tmp_path))
    expect(page.locator(".facts")).to_contain_text("Độ tin cậy 88 %")
    page.screenshot(path=tmp_path / "vietnamese.png", full_page=True)
    page.click("#lang")
    expect(page.locator(".facts")).to_contain_text("Confidence 88 %")
    page.reload()
    expect(page.locator("html")).to_have_attribute("lang", "en")


def test_every_text_is_there_in_both_languages(visit, served):
    page = visit(served.url)
    texts = page.evaluate("T")
    assert len(texts) > 30 and all(len(both) == 2 and all(both) for both in texts.values())
    used = page.evaluate("[...document.querySelectorAll('[data-t],[data-a]'), ...$('card').content.querySelectorAll("
                         "'[data-t],[data-a]')].map(one => one.dataset.t || one.dataset.a)")
    assert set(used) <= set(texts)


def test_a_phone_has_a_camera_large_targets_and_no_sideways_scrolling(visit, served, tmp_path):
    page = visit(served.url, **PHONE)
    page.set_input_files("#camera", line(tmp_path))
    assert text_of(page) == TEXT
    page.tap("text=That’s wrong")
    page.tap("text=Write by hand")
    drag_a_finger(page, "#ink")
    expect(page.locator("label[for=camera]")).to_be_visible()
    for target in page.locator("button:visible, .btn:visible, summary:visible, .check:visible").all():
        assert target.bounding_box()["height"] >= 44
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.screenshot(path=tmp_path / "phone.png")
    page.tap("text=Read it")
    expect(page.locator(".facts").filter(has_text="Confidence")).to_have_count(2)
    assert Image.open(io.BytesIO(served.reader.pictures[1])).size == pytest.approx((348, 128), abs=6)


def test_a_finger_takes_one_line_out_of_a_photo(visit, served, tmp_path):
    page = visit(served.url, **PHONE)
    (tmp_path / "photo.png").write_bytes(encoded(drawing(size=(650, 600))))
    page.set_input_files("#camera", tmp_path / "photo.png")
    expect(page.locator(".part")).to_have_text("Drag over one line to read it alone.")
    drag_a_finger(page, "article img")
    expect(page.locator(".facts").filter(has_text="Confidence")).to_have_count(2)
    scale = 650 / (390 - 66)  # what the margins leave of the screen
    assert Image.open(io.BytesIO(served.reader.pictures[1])).size == pytest.approx((150 * scale, 40 * scale), abs=6)


def test_dark_rooms_get_a_dark_page(visit, served, tmp_path):
    page = visit(served.url, color_scheme="dark")
    page.set_input_files("#file", line(tmp_path))
    assert text_of(page) == TEXT
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 23, 26)"
    page.screenshot(path=tmp_path / "dark.png", full_page=True)


def test_faults_are_told_in_plain_words_and_can_be_tried_again(visit, served, tmp_path):
    page = visit(served.url)
    (tmp_path / "letter.pdf").write_bytes(b"%PDF-1.7")
    drop(page, tmp_path / "letter.pdf")
    expect(page.locator(".state").first).to_have_text("This is no picture that can be read.")
    page.context.set_offline(True)
    drop(page, line(tmp_path))
    expect(page.locator(".state").first).to_have_text("The server cannot be reached.")
    page.context.set_offline(False)
    predictor = served.server.app.extensions["predictor"]
    predictor.reader = None
    page.locator(".again").first.click()
    expect(page.locator(".state").first).to_have_text("The server is busy. Try again in some seconds.")
    predictor.reader = served.reader
    page.locator(".again").first.click()
    assert text_of(page) == TEXT
    page.screenshot(path=tmp_path / "faults.png", full_page=True)
    assert [text.partition(":")[0] for text in visit.complaints] == ["Failed to load resource"] * 3
    visit.complaints.clear()


def test_what_is_read_is_text_never_markup(visit, served, tmp_path):
    served.reader.text = "<img src=x onerror=alert(1)> & co"
    page = visit(served.url)
    page.set_input_files("#file", line(tmp_path))
    assert text_of(page) == served.reader.text


def test_a_picture_without_text_says_so(visit, served, tmp_path):
    served.reader.text = ""
    page = visit(served.url)
    page.set_input_files("#file", line(tmp_path))
    expect(page.locator(".state")).to_have_text("No text found.")


def test_the_real_server_serves_it(visit, tmp_path):
    port = free_port()
    process = start(["-c", READER], port, "--model", str(tmp_path), "--data-uri", str(tmp_path / "data"),
                    TMPDIR=str(tmp_path))
    try:
        wait_until_ready(port, process)
        page = visit(f"http://127.0.0.1:{port}/")
        page.set_input_files("#file", line(tmp_path))
        assert text_of(page) == "chữ"
    finally:
        process.terminate()
        process.communicate()
    assert process.returncode == 0 and len(kept(tmp_path)) == 1


@pytest.fixture
def guarded(served, monkeypatch):
    """The server, which wants a token from now on."""
    monkeypatch.setenv(TOKEN, SECRET)
    return served


def refusals(visit) -> int:
    """Counts what the browser says of answers that were 401, and forgets it."""
    count = sum("401" in text for text in visit.complaints)
    visit.complaints[:] = [text for text in visit.complaints if "401" not in text]
    return count


def test_the_page_asks_for_the_token_once_and_forgets_it_with_the_tab(visit, guarded, tmp_path):
    page = visit(guarded.url)
    page.set_input_files("#file", [line(tmp_path), line(tmp_path, 1)])
    expect(page.get_by_label("This service needs a token")).to_be_focused()
    assert page.locator("#token").get_attribute("type") == "password"
    page.keyboard.type(f"{SECRET} ")  # as it is pasted, a space too much
    page.keyboard.press("Enter")
    expect(page.locator(".facts").filter(has_text="Confidence")).to_have_count(2)
    assert refusals(visit) == 1 and page.url == guarded.url
    page.reload()
    page.set_input_files("#file", line(tmp_path))
    assert text_of(page) == TEXT and refusals(visit) == 0
    assert page.evaluate("[sessionStorage.token, localStorage.token]") == [SECRET, None]
    assert not any(SECRET in address for address in visit.addresses)
    other = visit(guarded.url)
    other.set_input_files("#file", line(tmp_path))
    expect(other.locator("#door")).to_be_visible()
    assert refusals(visit) == 1


def test_a_wrong_token_is_asked_for_again_and_whoever_has_none_may_go_on_looking(visit, guarded, tmp_path):
    page = visit(guarded.url, locale="vi-VN")
    page.set_input_files("#file", line(tmp_path))
    page.fill("#token", "wrong")
    page.click("text=Tiếp tục")
    expect(page.locator("#token")).to_have_value("")
    page.keyboard.press("Escape")
    expect(page.locator(".state")).to_have_text("Dịch vụ này cần mã truy cập")
    page.click(".again")
    page.click("text=Hủy")
    expect(page.locator(".state")).to_have_text("Dịch vụ này cần mã truy cập")
    page.screenshot(path=tmp_path / "locked.png", full_page=True)
    page.click(".again")
    page.fill("#token", SECRET)
    page.screenshot(path=tmp_path / "door.png")
    page.click("text=Tiếp tục")
    assert text_of(page) == TEXT
    assert refusals(visit) == 4


def test_a_correction_needs_the_token_too(visit, served, tmp_path, monkeypatch):
    page = visit(served.url)
    page.set_input_files("#file", line(tmp_path))
    assert text_of(page) == TEXT
    monkeypatch.setenv(TOKEN, SECRET)
    page.click("text=That’s wrong")
    page.click("text=Send")
    page.fill("#token", SECRET)
    page.click("text=Go on")
    expect(page.locator(".sent")).to_have_text("Thank you!")
    assert refusals(visit) == 1 and len(served.kept()) == 2
