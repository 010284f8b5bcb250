"""Pages for people: curves of a training run, the lines a reader got wrong. One HTML file each, nothing to load."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np

STYLE = ("body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
         "table{border-collapse:collapse}td,th{padding:.2rem .8rem;border-bottom:1px solid #ddd;text-align:left}"
         "figure{margin:1.2rem 0}img{max-width:100%;border:1px solid #ddd}.bad{color:#b00020}"
         "svg text{font:12px system-ui,sans-serif}")
COLOURS = ("#0b6", "#36c", "#c63", "#909")
WIDTH, HEIGHT, MARGIN = 720, 260, 44  # px of a chart


def page(title: str, body: str) -> str:
    """Returns a whole HTML page; `body` is HTML already."""
    return (f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
            f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>{body}</html>")


def table(rows: Mapping[str, object]) -> str:
    """Returns a table of names and values."""
    cells = "".join(f"<tr><th>{html.escape(str(k))}<td>{html.escape(str(v))}" for k, v in rows.items())
    return f"<table>{cells}</table>"


def grid(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a table with named columns."""
    head = "".join(f"<th>{html.escape(name)}" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}" for cell in row) for row in rows)
    return f"<table><tr>{head}{body}</table>"


def training_page(summary: Mapping[str, object], epochs: Sequence[Mapping[str, float]],
                  left_out: Sequence[Sequence[str]] = ()) -> str:
    """Shows a run.

    Args:
        summary: Its outcome.
        epochs: Loss and error rates by epoch.
        left_out: Key, label and reading of each line it left out.
    """
    doubts = ("<h2>Left out: see whether these labels are right</h2>" + grid(("picture", "label", "reading"), left_out)
              if left_out else "")
    return page("Training run", table(summary) + curves(epochs) + doubts)


def curves(epochs: Sequence[Mapping[str, float]]) -> str:
    """Draws loss and error rates by epoch."""
    losses = chart("Loss by epoch", {"training loss": [epoch["train_loss"] for epoch in epochs]})
    rates = chart("Validation by epoch", {name: [epoch[key] for epoch in epochs] for name, key in
                                          (("CER", "val_cer"), ("WER", "val_wer"), ("exact lines", "val_exact"))})
    return losses + rates


def chart(title: str, series: Mapping[str, Sequence[float]]) -> str:
    """Draws lines over the numbers 1, 2, ...; values that are not finite are left out."""
    values = [v for row in series.values() for v in row if np.isfinite(v)]
    top = max(values, default=1.0) or 1.0
    length = max(2, *(len(row) for row in series.values()))
    lines = "".join(_polyline(row, length, top, colour) for row, colour in zip(series.values(), COLOURS))
    names = "".join(f'<text x="{MARGIN + 140 * i}" y="16" fill="{colour}">{html.escape(name)}</text>'
                    for i, (name, colour) in enumerate(zip(series, COLOURS)))
    bottom = HEIGHT - MARGIN
    axes = (f'<path d="M{MARGIN} {MARGIN}V{bottom}H{WIDTH - MARGIN}" fill="none" stroke="#999"/>'
            f'<text x="4" y="{MARGIN}">{top:.3g}</text><text x="4" y="{bottom}">0</text>'
            f'<text x="{MARGIN}" y="{bottom + 18}">1</text>'
            f'<text x="{WIDTH - MARGIN}" y="{bottom + 18}">{length}</text>')
    return (f'<figure><figcaption>{html.escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{html.escape(title)}">{names}{axes}{lines}</svg></figure>')


def _polyline(row: Sequence[float], length: int, top: float, colour: str) -> str:
    across, up = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN
    points = " ".join(f"{MARGIN + across * i / (length - 1):.1f},{HEIGHT - MARGIN - up * value / top:.1f}"
                      for i, value in enumerate(row) if np.isfinite(value))
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'


def picture(line: np.ndarray) -> str:
    """Returns an `<img>` that holds a line, uint8 [height, width], as PNG."""
    png = cv2.imencode(".png", line)[1].tobytes()
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def evaluation_page(scores: Mapping[str, object], worst: Sequence[tuple[np.ndarray, str, str, str]],
                    confused: Sequence[tuple[str, str, int]]) -> str:
    """Shows what a reader gets wrong.

    Args:
        scores: Names and numbers.
        worst: Picture, key, truth and reading of the worst lines.
        confused: Truth, reading and times of the commonest confusions.
    """
    figures = "".join(f"<figure>{picture(pixels)}<figcaption>{html.escape(key)}<br>{html.escape(truth)}"
                      f"<br><span class=bad>{html.escape(reading)}</span></figcaption></figure>"
                      for pixels, key, truth, reading in worst)
    confusions = grid(("truth", "reading", "times"), [(truth or "(nothing)", reading or "(nothing)", times)
                                                      for truth, reading, times in confused])
    return page("Evaluation", table(scores) + f"<h2>Commonest confusions</h2>{confusions}"
                f"<h2>Worst lines: picture, truth, reading</h2>{figures}")
