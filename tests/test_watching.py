"""The weekly look, from what a predictor kept in a real bucket to the page and the verdict."""

import html
import io
import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from conftest import ROOT
from helpers import drawing, encoded
from tiny_run import let_serve

from handwriting.bundle import CONFIG
from handwriting.drift import KEEP, RETRAIN, UNSURE, DriftConfig
from handwriting.drift_page import bars, drift_page
from handwriting.errors import ConfigError, MissingError
from handwriting.picture_files import new_name
from handwriting.predictor import create_app
from handwriting.profile import PROFILE, read_profile
from handwriting.reader import Reader
from handwriting.store import join, open_store, read_json, write_json
from handwriting.user_data import KeepConfig, UserPictures
from handwriting.user_readings import Seen
from handwriting.watching import watch

EVIL = "<script>alert(\"1\")</script> & 'x'"
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


class Place:
    """A bucket, or a folder, with a model that serves; `version` is the model's."""

    def __init__(self, root: str, bundle):
        self.root, self.version = root, bundle.name
        self.data = open_store(join(root, "data"))
        let_serve(bundle, join(root, "models"))
        self.count = 0

    def keep(self, number=1, hours=1.0, **content):
        """Writes a number of readings of pictures of their own, as the predictor would have."""
        for _ in range(number):
            self.count += 1
            name = new_name(NOW - timedelta(hours=hours), self.version)
            write_json(self.data, f"user_data/readings/{name}.json", {
                "text": "Huế", "confidence": 0.99, "width": 300, "version": f"{self.version}-c0de",
                "picture": f"p{self.count}"} | content)
        return name

    def watch(self, **options):
        return watch(self.data.root, join(self.root, "models"), until=NOW, **options)


@pytest.fixture
def place(tmp_path, tiny_bundle):
    return Place(str(tmp_path / "bucket"), tiny_bundle)


def test_an_empty_week_is_no_crash_and_says_so(place):
    found, page = place.watch()
    assert (found.verdict.word, found.metrics()["files"], found.metrics()["readings"]) == (UNSURE, 0, 0)
    assert "no readings of this model" in page and found.scores is None
    assert "nan" not in page.lower().replace("handwriting", "") and json.dumps(found.summary())


def test_a_folder_without_a_model_is_an_error_that_says_where(tmp_path):
    with pytest.raises(MissingError, match=str(tmp_path)):
        watch(str(tmp_path), str(tmp_path / "models"))


def test_days_have_to_be_some(place):
    with pytest.raises(ConfigError, match="days is 0"):
        place.watch(days=0)


def test_only_readings_of_the_model_that_serves_are_judged_and_all_are_listed(place):
    place.keep(3)
    place.keep(2, version=place.version)  # served without a release
    place.keep(4, version="0ld-c0de", hours=30)
    place.keep(1, version=f"{place.version}1-c0de")  # another one, whose name only begins alike
    found, page = place.watch()
    assert len(found.own) == 5 and found.metrics()["files"] == 10
    assert "<tr><td>2026-11-24<td>0ld-c0de<td>4" in page
    assert f"<tr><td>2026-11-25<td>{place.version}-c0de<td>3" in page


def test_days_before_are_left_out(place):
    place.keep(1, hours=23)
    place.keep(1, hours=25)
    assert [len(place.watch(days=days)[0].own) for days in (1, 2)] == [1, 2]


def test_what_came_a_moment_ago_counts(place):
    place.keep(1, hours=(NOW - datetime.now(UTC)) / timedelta(hours=1))
    assert len(watch(place.data.root, join(place.root, "models"))[0].own) == 1


@pytest.mark.parametrize("now", [False, True])
def test_only_readings_with_the_language_model_or_without_it_are_compared_as_the_last_one_was(place, now):
    place.keep(3, hours=2, language_model=not now)
    place.keep(2, hours=1, language_model=now)
    found, _ = place.watch()
    assert len(found.own) == 2 and found.profile == read_profile(open_store(found.model), now)


def test_the_same_picture_again_and_again_counts_once(place):
    place.keep(50, picture="probe")
    assert len(place.watch()[0].own) == 1


def test_readings_are_scored_against_the_last_correction_of_their_picture(place):
    place.keep(picture="a", text="Hue")
    place.keep(picture="b", text="Hà Nội")
    for picture, text, hours in (("a", "x", 0.9), ("a", "Huế", 0.5), ("b", "Hà Nội", 0.5), ("gone", "Vinh", 0.5)):
        place.keep(picture=picture, correction=text, hours=hours)
    found, page = place.watch()
    assert (found.scores.edits, found.scores.characters, found.scores.lines) == (1, 9, 2)
    assert len(found.corrections) == 3 and "0.1111 in 2 lines" in page


def test_characters_outside_the_alphabet_are_named_with_their_corrections(place):
    for number, text in enumerate(("Straße 1", "Straße 2", "№ 5", "1")):
        place.keep(picture=f"c{number}", correction=text)
    found, page = place.watch(config=DriftConfig(corrections=4, unknown=0.0))
    assert (found.week.corrections, found.week.unknown) == (4, 3)
    assert (found.unknown["ß"], found.unknown["№"]) == (2, 1)
    assert "(U+00DF)<td>2" in page and found.verdict.retrain and "can never read these" in page


def test_a_model_without_a_profile_gives_figures_and_no_verdict(place, caplog):
    caplog.set_level("INFO")
    models = open_store(join(place.root, "models"))
    models.delete(f"{place.version}/{PROFILE}")
    place.keep(3)
    found, page = place.watch(config=DriftConfig(readings=1))
    assert (found.verdict.word, len(found.own)) == (UNSURE, 3) and "low_share" not in found.metrics()
    assert caplog.text.count(PROFILE) == 1 and "next training writes one" in page


@pytest.mark.parametrize("confidence, word", [(1.0, KEEP), (0.0, RETRAIN)])
def test_the_verdict_follows_the_confidence_of_the_readings(place, confidence, word):
    models = open_store(join(place.root, "models"))
    profile = read_json(models, f"{place.version}/{PROFILE}")
    confidences = [0] * len(profile["confidences"]["beam"])
    confidences[-2] = 100  # as sure as can be
    write_json(models, f"{place.version}/{PROFILE}", profile | {"confidences": {"beam": confidences}})
    place.keep(200, confidence=confidence)
    found, page = place.watch(config=DriftConfig(widths=1.0))
    assert found.verdict.word == word == found.summary()["verdict"] and word in page
    assert ("Let people label" in page) == (word == RETRAIN) == found.summary()["retrain"]


def test_the_least_certain_lines_are_shown_and_pictures_that_are_gone_or_damaged_are_not(place):
    sure, unsure, gone, damaged = (place.keep(confidence=value) for value in (0.9, 0.3, 0.2, 0.1))
    for name, content in ((sure, encoded(drawing(1))), (unsure, encoded(drawing(2))), (damaged, b"no picture")):
        place.data.write(f"user_data/images/{name}.png", content)
    shown = re.findall(r'data:image/png;base64.*?<br>([\d.]+)%, (\S+?)</figcaption>', place.watch()[1])
    assert shown == [("30.0", unsure), ("90.0", sure)]


def test_what_users_sent_and_wrote_is_escaped_and_the_page_loads_nothing(place):
    name = place.keep(text=EVIL, version=f"{place.version}-{EVIL}")
    place.keep(correction=EVIL)
    place.data.write(f"user_data/images/{name}.png", encoded(drawing()))
    found, page = place.watch()
    assert "<script" not in page and html.escape(EVIL) in page
    sources = re.findall(r'(?:src|href)="([^"]{0,20})', page)
    assert sources and all(source.startswith("data:") for source in sources)
    assert "http" not in page and "@import" not in page
    assert "<script" not in drift_page(found, [(np.zeros((4, 4), np.uint8), Seen(EVIL, "v", "p", EVIL, 0.5, 4, True))])


def bars_of(svg):
    """Left edge and height of each bar, by colour."""
    found = re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="[\d.]+" height="([\d.]+)" fill="([^"]+)"', svg)
    return {colour: [(float(x), float(tall)) for x, tall, c in found if c == colour] for _, _, colour in found}


def test_bars_are_as_tall_as_their_shares_and_stand_side_by_side():
    made = bars("Width", (10, 20, 30), {"now": [0, 1, 1, 0], "then": [0, 0, 6, 2]})
    now, then = bars_of(made).values()
    assert [tall for _, tall in now] == pytest.approx([then[1][1] * 2 / 3, then[1][1] * 2 / 3, 0], abs=0.1)
    assert then[2][1] == pytest.approx(then[1][1] / 3, abs=0.1) and then[0][1] == 0
    assert all(a[0] < b[0] for a, b in zip(now, then)) and ">75%<" in made
    assert ">10<" not in made and all(f">{bound}<" in made for bound in ("20", "30", "more"))


@pytest.mark.parametrize("series", [{"now": [0, 0]}, {"now": [0, 0], "then": []}, {"now": [], "then": [3, 1]}, {}])
def test_bars_of_nothing_are_an_empty_chart(series):
    made = bars("Width", (10,), series)
    assert "<svg" in made and "nan" not in made and ("<rect" in made) == bool(sum(map(sum, series.values())))


def command(*arguments):
    done = subprocess.run([sys.executable, "-m", "pipeline", "drift", *map(str, arguments)], cwd=ROOT,
                          capture_output=True, text=True, timeout=120)
    return done, json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def test_from_the_answer_of_a_predictor_to_the_page_through_a_real_bucket(bucket, tiny_bundle, sample_folder, tmp_path):
    uri = f"s3://{bucket}"
    let_serve(tiny_bundle, f"{uri}/models")
    store = UserPictures(f"{uri}/data", KeepConfig(str(tmp_path / "spool")))
    client = create_app(Reader.load(tiny_bundle, language_model=True), store,
                        release=f"{tiny_bundle.name}-c0de").test_client()
    pictures = sorted((sample_folder / "train/images").iterdir())[:20]
    for path in pictures:
        assert client.post("/predict", data={"file": (io.BytesIO(path.read_bytes()), "x")}).status_code == 200
    sent = {"file": (io.BytesIO(pictures[0].read_bytes()), "x"), "text": "Đường Láng №"}
    assert client.post("/correction", data=sent).status_code == 204
    store.close()
    data = open_store(f"{uri}/data")
    told = [json.loads(data.read(entry.key)).get("language_model") for entry in data.list("user_data/readings")]
    assert (told.count(True), told.count(None)) == (20, 1)  # a correction says nothing of it
    data.write(f"user_data/readings/{new_name(datetime.now(UTC), 'v')}.json", b"{")
    done, found = command("--data", f"{uri}/data", "--model", f"{uri}/models", "--readings", 20, "--report",
                          tmp_path / "drift.html")
    assert done.returncode == 0, done.stderr
    assert (found["files"], found["damaged"], found["readings"], found["corrections"]) == (22, 1, 20, 1)
    assert found["model"] == f"{uri}/models/{tiny_bundle.name}" and found["unknown"] == 1 and found["cer"] > 0.5
    assert found["verdict"] in (KEEP, RETRAIN) and found["reasons"] and found["width_distance"] < 0.5
    page = (tmp_path / "drift.html").read_text("utf-8")
    assert page.count("data:image/png") == 12 and "№" in page


def test_the_command_says_what_is_missing_in_one_line(tmp_path):
    done, _ = command("--data", tmp_path, "--model", tmp_path / "nowhere")
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and "nowhere" in line and "Traceback" not in done.stderr


def test_a_local_folder_will_do(place, tmp_path):
    shutil.rmtree(tmp_path / "bucket/data", ignore_errors=True)
    done, found = command("--data", tmp_path / "bucket/data", "--model", tmp_path / "bucket/models", "--days", 1)
    assert done.returncode == 0 and found["verdict"] == UNSURE and not found["retrain"]
    assert (tmp_path / "bucket/models" / place.version / CONFIG).exists()
