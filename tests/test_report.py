import base64
import html
import re

import cv2
import numpy as np
import pytest

from handwriting.report import chart, evaluation_page, page, picture, table, training_page

EVIL = "<script>alert(\"1\")</script> & 'x'"
NAN, INF = float("nan"), float("inf")


def points(svg):
    """The points of each polyline of a chart."""
    return [[tuple(map(float, pair.split(","))) for pair in line.split()]
            for line in re.findall(r'<polyline points="([^"]*)"', svg)]


def epoch(**values):
    return {"train_loss": 1.0, "val_cer": 0.5, "val_wer": 0.6, "val_exact": 0.1} | values


@pytest.mark.parametrize("made", [
    page(EVIL, ""),
    table({EVIL: EVIL}),
    chart(EVIL, {EVIL: [1.0]}),
    training_page({"dataset": EVIL}, [epoch()], [(EVIL, EVIL, EVIL)]),
    evaluation_page({"model": EVIL}, [(np.zeros((4, 4), np.uint8), EVIL, EVIL, EVIL)], [(EVIL, EVIL, 1)]),
], ids=["page", "table", "chart", "training", "evaluation"])
def test_texts_are_escaped(made):
    assert "<script" not in made and html.escape(EVIL) in made


def test_a_run_shows_the_lines_it_left_out_with_label_and_reading():
    made = training_page({}, [epoch()], [("train/images/1.png", "Hà Nội, Hà Nội", "Hà Nội")])
    assert "<tr><td>train/images/1.png<td>Hà Nội, Hà Nội<td>Hà Nội" in made
    assert "Left out" not in training_page({}, [epoch()])


def test_evaluation_shows_key_truth_and_reading_of_each_line():
    made = evaluation_page({"cer": 0.25}, [(np.zeros((4, 4), np.uint8), "test/images/1.png", "Hà Nội", "Hà Nộ")],
                           [("i", "", 3)])
    for text in ("<th>cer<td>0.25", "test/images/1.png", "Hà Nội", "<span class=bad>Hà Nộ</span>",
                 "<td>i<td>(nothing)<td>3"):
        assert text in made


def test_a_chart_spans_its_plot_from_the_first_to_the_last_value():
    ((first, middle, last),) = points(chart("Loss", {"loss": [4.0, 2.0, 0.0]}))
    assert first[0] < middle[0] < last[0] and middle[0] - first[0] == pytest.approx(last[0] - middle[0])
    assert first[1] < middle[1] < last[1] and middle[1] - first[1] == pytest.approx(last[1] - middle[1])  # y grows down


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_chart_leaves_out_what_is_not_finite(bad):
    whole, holed = (chart("Loss", {"loss": [4.0, value, 1.0]}) for value in (2.0, bad))
    (kept,) = points(holed)
    assert kept == [points(whole)[0][0], points(whole)[0][2]]
    assert "nan" not in holed and "inf" not in holed


@pytest.mark.parametrize("row", [[], [NAN], [0.0], [0.0, 0.0]])
def test_a_chart_of_nothing_much_has_no_bad_numbers(row):
    made = chart("Loss", {"loss": row})
    assert "<svg" in made and "nan" not in made and "inf" not in made


def test_a_run_without_epochs_has_a_page():
    assert "<th>best_epoch<td>0" in training_page({"best_epoch": 0}, [])


def test_pictures_are_inline_and_whole():
    line = np.random.default_rng(0).integers(0, 256, (16, 40)).astype(np.uint8)
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', picture(line))
    back = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(back, line)


def test_pages_load_nothing():
    made = evaluation_page({}, [(np.zeros((4, 4), np.uint8), "k", "t", "r")], [])
    made += training_page({}, [epoch(), epoch()])
    sources = re.findall(r'(?:src|href)="([^"]{0,20})', made)
    assert sources and all(source.startswith("data:") for source in sources)
    assert "http" not in made and "@import" not in made
