"""The step of the weekly pipeline: what users sent against what the model that serves was trained on."""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import HTML, Metrics, Output

from ops.embedding import SHARED, slim
from ops.packages import BASE_IMAGE, requirements


@slim
@dsl.component(base_image=BASE_IMAGE, packages_to_install=requirements("watch"), embedded_artifact_path=SHARED)
def watch(
    bucket: str,
    metrics: Output[Metrics],
    report: Output[HTML],
    model: str = "",
    days: int = 7,
    readings: int = 200,
    corrections: int = 20,
    low: float = 0.05,
    widths: float = 0.2,
    unknown: float = 0.02,
    certainty: float = 0.99,
) -> NamedTuple("Verdict", [("retrain", bool), ("verdict", str), ("reasons", str)]):  # type: ignore[valid-type]
    """Says whether to train again. Reads S3 credentials.

    Args:
        bucket: `s3://bucket` with what users sent under `data/user_data/`, and models.
        metrics: Counts of readings and corrections, share of low confidence, distances, CER where people corrected.
        report: Verdict, figures, charts, and the least certain lines as pictures.
        model: URI of a bundle; "" for the one that serves.
        days: To look back.
        readings: Fewest readings to judge by.
        corrections: Fewest corrections to judge by.
        low: How much the share of readings of low confidence may grow, 0 to 1.
        widths: Distance of the widths that is nothing, 0 to 1.
        unknown: How much the share of texts with a character outside the alphabet may grow, 0 to 1.
        certainty: With which a change has to be greater than that, over 0.5 to below 1.

    Returns:
        retrain: Train again, once there are labels of what is new.
        verdict: "retrain", "keep" or "not enough to say".
        reasons: Sentences that name figures.
    """
    from pathlib import Path

    from handwriting import layout, watching
    from handwriting.drift import DriftConfig
    from handwriting.store import join

    found, page = watching.watch(join(bucket, layout.DATA), model or join(bucket, layout.MODELS), days,
                                 DriftConfig(readings, corrections, low, widths, unknown, certainty))
    for name, value in found.metrics().items():
        metrics.log_metric(name, value)
    Path(report.path).write_text(page, "utf-8")
    return found.verdict.retrain, found.verdict.word, "; ".join(found.verdict.reasons)
