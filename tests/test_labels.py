import copy
import json
import unicodedata
from collections import Counter

import pytest
from conftest import SHARED

from handwriting.errors import ConfigError
from handwriting.labels import BUCKET_SPLITS, LabelConfig, Reason, read_labels, select_labels
from handwriting.text import clean_text

DATA = "s3://ocrpipeline/data"
EXPORT = SHARED / "data" / "cinnamon" / "label_studio_export.json"


def annotation(text="Hà Nội", number=1, updated="2026-01-01T00:00:00.5Z", quality="Good", **more):
    result = [{"from_name": "caption", "to_name": "image", "type": "textarea", "value": {"text": [text]}},
              {"from_name": "chc", "to_name": "image", "type": "choices", "value": {"choices": [quality]}}]
    return {"id": number, "updated_at": updated, "was_cancelled": False, "ground_truth": False, "result": result} | more


def task(*annotations, number=7, uri=f"{DATA}/train/images/a.png"):
    return {"id": number, "data": {"captioning": uri}, "annotations": list(annotations)}


def text_of(*tasks, **config):
    labels, rejects = select_labels(tasks, DATA, LabelConfig(**config))
    assert not rejects
    return labels[0].text


def reason_of(*tasks, data=DATA, **config):
    labels, rejects = select_labels(tasks, data, LabelConfig(**config))
    assert not labels
    return rejects[0].reason


def test_a_label_holds_split_name_uri_text_and_task():
    (label,), rejects = select_labels([task(annotation())], DATA + "/")
    assert label == ("train", "a.png", f"{DATA}/train/images/a.png", "Hà Nội", 7)
    assert rejects == []


@pytest.mark.parametrize("split", BUCKET_SPLITS)
def test_the_uri_tells_the_split(split):
    (label,), _ = select_labels([task(annotation(), uri=f"{DATA}/{split}/images/x y.JPG")], DATA)
    assert (label.split, label.name) == (split, "x y.JPG")


@pytest.mark.parametrize("uri", [
    "s3://other/data/train/images/a.png", "s3://ocrpipeline/data2/train/images/a.png", f"{DATA}/training/images/a.png",
    f"{DATA}/train/images/", f"{DATA}/train", f"{DATA}/train/images/../../x.png", "/data/upload/1/a.png", "", DATA,
    "http://127.0.0.1/s3://ocrpipeline/data/train/images/a.png"])
def test_pictures_elsewhere_are_outside_the_bucket(uri):
    assert reason_of(task(annotation(), uri=uri)) == Reason.OUTSIDE


def test_the_ground_truth_wins_over_a_newer_annotation():
    truth, newer = annotation("truth", 1, ground_truth=True), annotation("newer", 2, "2027-01-01T00:00:00Z")
    assert text_of(task(truth, newer)) == "truth"


def test_a_cancelled_ground_truth_does_not_win():
    truth = annotation("truth", 1, ground_truth=True, was_cancelled=True)
    assert text_of(task(truth, annotation("other", 2))) == "other"


def test_the_newest_annotation_wins_whatever_its_place_and_the_form_of_its_time():
    newer = annotation("newer", 1, "2026-01-01T00:00:00.5Z")
    older = annotation("older", 2, "2026-01-01T00:00:00Z")  # as text it would be greater
    elsewhere = annotation("older", 3, "2026-01-01T01:00:00.4+01:00")
    assert text_of(task(newer, older, elsewhere)) == "newer"


def test_annotations_of_the_same_time_are_told_apart_by_their_number():
    assert text_of(task(annotation("second", 2), annotation("first", 1))) == "second"
    assert text_of(task(annotation("second", 2, None), annotation("first", 1, None))) == "second"


def test_tasks_that_nobody_annotated_or_all_cancelled_are_told_apart():
    assert reason_of(task()) == Reason.UNLABELLED
    assert reason_of(task(annotation(was_cancelled=True), annotation(was_cancelled=True))) == Reason.CANCELLED


def test_a_bad_picture_is_rejected_whatever_its_text():
    assert reason_of(task(annotation("x", quality="Bad"))) == Reason.BAD
    assert reason_of(task(annotation("", quality="Bad"))) == Reason.BAD


@pytest.mark.parametrize("text", ["", "  \t\n ", "\u200b\ufeff", "\x00\x07"])
def test_texts_with_nothing_to_see_are_empty(text):
    assert reason_of(task(annotation(text))) == Reason.EMPTY


def test_an_annotation_without_a_caption_is_empty():
    without = annotation()
    del without["result"][0]
    assert reason_of(task(without)) == Reason.EMPTY
    assert reason_of(task(annotation() | {"result": []})) == Reason.EMPTY


def test_the_bounds_count_composed_characters_and_are_inclusive():
    decomposed = unicodedata.normalize("NFD", "ệ" * 10)
    assert len(decomposed) == 30
    assert text_of(task(annotation(decomposed)), min_characters=10, max_characters=10) == "ệ" * 10
    assert reason_of(task(annotation("ab")), min_characters=3) == Reason.SHORT
    assert reason_of(task(annotation("x" * 500))) == Reason.LONG
    assert text_of(task(annotation("x" * 500)), max_characters=500) == "x" * 500


def test_a_single_text_may_stand_outside_a_list():
    single = annotation()
    single["result"][0]["value"]["text"] = "plain"
    assert text_of(task(single)) == "plain"


def test_of_two_tasks_with_one_picture_the_newer_label_stays():
    old, new = task(annotation("old"), number=9), task(annotation("new", updated="2026-02-01T00:00:00Z"), number=8)
    for tasks in ([old, new], [new, old]):
        labels, rejects = select_labels(tasks, DATA)
        assert [label.text for label in labels] == ["new"]
        assert [(reject.task, reject.reason) for reject in rejects] == [(9, Reason.DOUBLE)]


def test_a_cancelled_task_does_not_hide_another_of_the_same_picture():
    tasks = [task(annotation("kept")), task(annotation(was_cancelled=True, updated="2027-01-01T00:00:00Z"), number=8)]
    labels, rejects = select_labels(tasks, DATA)
    assert [label.text for label in labels] == ["kept"]
    assert [reject.reason for reject in rejects] == [Reason.CANCELLED]


MALFORMED = [
    None, 3, "task", [], {}, {"id": 1}, {"id": 1, "data": None, "annotations": []}, task() | {"data": []},
    task() | {"data": {"captioning": 5}}, task() | {"data": {"captioning": None}}, task() | {"annotations": None},
    task() | {"annotations": {}}, task() | {"annotations": [None]}, task(annotation()) | {"id": "7"},
    task(annotation()) | {"id": None}, task(annotation()) | {"id": True}, task(annotation() | {"result": None}),
    task(annotation() | {"result": [4]}), task(annotation(5)), task(annotation({"a": 1})), task(annotation(quality=3)),
    task(annotation() | {"result": [{"from_name": "caption", "value": {"text": 5}}]}),
    task(annotation() | {"result": [{"from_name": "chc", "value": {"choices": {"Bad": 1}}}]}),
]


@pytest.mark.parametrize("broken", MALFORMED, ids=lambda broken: json.dumps(broken)[:60])
def test_malformed_tasks_are_rejected_and_stop_nothing(broken):
    good = task(annotation("good"), number=1, uri=f"{DATA}/train/images/good.png")
    labels, rejects = select_labels([broken, good], DATA)
    assert [label.text for label in labels] == ["good"]
    assert [reject.reason for reject in rejects] == [Reason.MALFORMED]


def test_every_value_of_a_task_may_be_null_or_of_another_type_without_an_exception():
    def spoil(value, path=()):
        yield path
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            yield from spoil(inner, (*path, key))

    whole = task(annotation())
    for path in spoil(whole):
        for junk in (None, 1, -1.5, True, "", "x", [], {}, [[]], [None], {"a": None}):
            tasks = copy.deepcopy([whole])
            place = tasks
            for key in (0, *path)[:-1]:
                place = place[key]
            place[(0, *path)[-1]] = junk
            labels, rejects = select_labels(tasks, DATA)
            assert len(labels) + len(rejects) == 1


def test_details_and_reasons_hold_no_text_of_users():
    secret = "geheim " * 40
    _, rejects = select_labels([task(annotation(secret)), task(annotation(secret, quality="Bad"), number=8)], DATA)
    assert "geheim" not in json.dumps(rejects)
    assert json.dumps([reject._asdict() for reject in rejects])


def test_names_of_the_label_interface_can_differ():
    renamed = json.dumps(task(annotation(quality="Schlecht"))).replace("caption", "satz").replace("chc", "güte")
    config = LabelConfig(captioning="satzing", caption="satz", quality="güte", bad="Schlecht")
    assert select_labels([json.loads(renamed)], DATA, config)[1][0].reason == Reason.BAD


@pytest.mark.parametrize("bounds", [(0, 5), (6, 5), (-1, -1)])
def test_impossible_bounds_are_refused(bounds):
    with pytest.raises(ConfigError, match="min_characters"):
        LabelConfig(min_characters=bounds[0], max_characters=bounds[1])


def test_labels_json_is_read_as_an_export_is():
    labels, rejects = read_labels("train", {"a.png": "Ha\u0300  Nội", "b.png": None, "c.png": " "}, DATA)
    assert [(label.uri, label.text) for label in labels] == [(f"{DATA}/train/images/a.png", "Hà Nội")]
    assert [reject.reason for reject in rejects] == [Reason.MALFORMED, Reason.EMPTY]


@pytest.mark.parametrize(("raw", "clean"), [
    ("  Hà\u00a0\u3000Nội\t\r\n", "Hà Nội"), ("e\u0323\u0302", "ệ"), ("e\u0302\u0323", "ệ"), ("a\u200b b\ufeff", "a b"),
    ("a \u200b b", "a b"), ("e\u200d\u0301", "é"), ("a\u2028b\x85c", "a b c"), ("a\x00b\x1bc", "abc"), ("😀 Hà", "😀 Hà"),
    ("a\u00adb", "ab"), ("\ud800x", "x"), ("\u202eabc", "abc"), ("", "")])
def test_clean_text(raw, clean):
    assert clean_text(raw) == clean
    assert clean_text(clean) == clean


@pytest.fixture(scope="module")
def real():
    """2,103 tasks exported by Label Studio 1.23.2, and what is made of them."""
    if not EXPORT.exists():
        pytest.skip(f"{EXPORT} is not here: it comes with the project's shared data")
    tasks = json.loads(EXPORT.read_text(encoding="utf-8"))
    return tasks, *select_labels(tasks, DATA)


def test_every_task_of_the_real_export_is_accounted_for_once(real):
    tasks, labels, rejects = real
    assert len(labels) + len(rejects) == len(tasks) == 2103
    assert sorted([label.task for label in labels] + [reject.task for reject in rejects]) == sorted(
        one["id"] for one in tasks)
    assert Counter(reject.reason for reject in rejects) == {Reason.CANCELLED: 12, Reason.BAD: 6, Reason.EMPTY: 2}


def test_texts_of_the_real_export_equal_labels_json(real):
    _, labels, rejects = real
    gone = {reject.uri for reject in rejects}
    for split in BUCKET_SPLITS:
        expected = json.loads((EXPORT.parent / split / "labels.json").read_text(encoding="utf-8"))
        found = {label.name: label.text for label in labels if label.split == split}
        assert found == {name: expected[name] for name in found}
        unlabelled = {name for name in expected if f"{DATA}/{split}/images/{name}" not in gone} - set(found)
        assert len(unlabelled) == (10 if split == "train" else 0)
