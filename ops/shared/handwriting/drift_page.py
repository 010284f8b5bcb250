"""The page of the weekly look: verdict and what to do, figures then and now, the least certain lines."""

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from handwriting.alphabet import describe
from handwriting.profile import CONFIDENCES, WIDTHS
from handwriting.report import COLOURS, HEIGHT, MARGIN, WIDTH, grid, page, picture, table

if TYPE_CHECKING:
    from handwriting.user_readings import Seen
    from handwriting.watching import Found

LABEL = ("<p>Let people label what the model is least certain of: Label Studio shows those lines first, after each run "
         "of the pipeline or of <code>python -m pipeline prelabel</code>. The next run learns from them; one without "
         "new labels ends at once.")
ALPHABET = ("<p>The model can never read these. Let the pipeline's parameter <code>alphabet</code> hold them, or be "
            "<code>labels</code>, once there are labels with them.")


def drift_page(found: "Found", least_certain: "Sequence[tuple[np.ndarray, Seen]]") -> str:
    """Shows how what users sent differs from what a model learned from.

    Args:
        found: What the look gave.
        least_certain: Lines, uint8 [height, width], and their readings.
    """
    title = f"Users' lines, {found.kept.since:%Y-%m-%d} to {found.kept.until:%Y-%m-%d}: {found.verdict.word}"
    return page(title, _verdict(found) + _figures(found) + _charts(found) + _unknown(found.unknown) + _days(found)
                + _lines(least_certain))


def _verdict(found: "Found") -> str:
    reasons = "".join(f"<li>{html.escape(reason)}" for reason in found.verdict.reasons)
    return f"<ul>{reasons}</ul>" + (LABEL if found.verdict.retrain else "")


def _figures(found: "Found") -> str:
    kept, scores = found.kept, found.scores
    since, until = (f"{moment:%Y-%m-%d %H:%M} UTC" for moment in (kept.since, kept.until))
    rows = {"model": found.model, "from": since, "to": until, "files kept": kept.files,
            "of these damaged or gone": kept.damaged,
            "read for this page": "all" if kept.every == 1 else f"one of {kept.every}",
            "pictures that this model read": len(found.own), "pictures that people corrected": len(found.corrections),
            "CER of the readings that were corrected": f"{scores.cer:.4f} in {scores.lines} lines" if scores else "-"}
    changes = [(change.text, f"{change.change:+.3f}", f"{change.least:+.3f}", change.limit,
                "" if change.enough else "too few figures") for change in found.verdict.changes]
    compared = grid(("compared", "change", "at the least", "limit", ""), changes) if changes else ""
    return table(rows) + compared


def _charts(found: "Found") -> str:
    profile = found.profile
    return (bars("Confidence up to", CONFIDENCES, {"readings": found.week.confidences,
                                                   "validation lines": profile.confidences if profile else []})
            + bars("Width of the lines up to, px", WIDTHS, {"readings": found.week.widths,
                                                            "training lines": profile.widths if profile else []}))


def bars(title: str, bounds: Sequence[float], series: Mapping[str, Sequence[int]]) -> str:
    """Draws the shares of histograms side by side, from the first to the last bin that has any.

    Args:
        title: What is counted.
        bounds: Upper bounds of the bins but the last, which has none.
        series: Counts by name; of a name without any there are no bars.
    """
    filled = [place for counts in series.values() for place, count in enumerate(counts) if count]
    first, last = min(filled, default=0), max(filled, default=0)
    top = max((max(counts) / sum(counts) for counts in series.values() if any(counts)), default=1.0)
    slot = (WIDTH - 2 * MARGIN) / (last - first + 1)
    bottom, parts = HEIGHT - MARGIN, []
    for number, (name, counts) in enumerate(series.items()):
        parts.append(f'<text x="{MARGIN + 140 * number}" y="16" fill="{COLOURS[number]}">{html.escape(name)}</text>')
        for place in range(first, last + 1 if any(counts) else first):
            tall = (HEIGHT - 2 * MARGIN) * counts[place] / sum(counts) / top
            left = MARGIN + slot * (place - first + 0.1 + 0.4 * number)
            parts.append(f'<rect x="{left:.1f}" y="{bottom - tall:.1f}" width="{0.4 * slot:.1f}" height="{tall:.1f}" '
                         f'fill="{COLOURS[number]}"/>')
    for place in range(first, last + 1):
        parts.append(f'<text x="{MARGIN + slot * (place - first + 0.1):.1f}" y="{bottom + 18}">'
                     f'{(*bounds, "more")[place]}</text>')
    return (f'<figure><figcaption>{html.escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{html.escape(title)}"><text x="4" y="{MARGIN}">{top:.0%}</text>{"".join(parts)}'
            "</svg></figure>")


def _unknown(unknown: Counter[str]) -> str:
    if not unknown:
        return ""
    rows = [(describe(character), times) for character, times in unknown.most_common(50)]
    return "<h2>Characters outside the alphabet</h2>" + ALPHABET + grid(("character", "corrections"), rows)


def _days(found: "Found") -> str:
    """Shows how many readings there are of each day and version; a picture that came twice counts twice."""
    counts = Counter((one.day, one.version) for one in found.kept.readings)
    return "<h2>Readings by day and version</h2>" + grid(
        ("day, UTC", "version", "readings"), [(*key, number) for key, number in sorted(counts.items())])


def _lines(least_certain: "Sequence[tuple[np.ndarray, Seen]]") -> str:
    figures = "".join(f"<figure>{picture(line)}<figcaption>{html.escape(one.text)}<br>{one.confidence:.1%}, "
                      f"{html.escape(one.name)}</figcaption></figure>" for line, one in least_certain)
    return f"<h2>The least certain readings</h2>{figures}" if figures else ""
