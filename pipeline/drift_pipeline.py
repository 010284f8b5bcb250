"""The weekly pipeline: one step that says whether to train again.

It starts no training: that could learn nothing before people have labelled what is new, and new labels start one by
themselves, on schedule or by the webhook.
"""

from kfp import dsl

from ops.watch import watch
from pipeline.handwriting_pipeline import S3_SECRET, with_secrets


@dsl.pipeline(name="handwriting-drift", description="What users send against what the reader was trained on.")
def drift_pipeline(
    bucket: str = "s3://ocrpipeline",
    days: int = 7,
    readings: int = 200,
    corrections: int = 20,
    low: float = 0.05,
    widths: float = 0.2,
    unknown: float = 0.02,
    certainty: float = 0.99,
) -> None:
    """Says whether the model that serves should be trained again.

    Args:
        bucket: `s3://bucket` with what users sent under `data/user_data/`, and models.
        days: To look back.
        readings: Fewest readings to judge by.
        corrections: Fewest corrections to judge by.
        low: How much the share of readings of low confidence may grow, 0 to 1.
        widths: Distance of the widths that is nothing, 0 to 1.
        unknown: How much the share of texts with a character outside the alphabet may grow, 0 to 1.
        certainty: With which a change has to be greater than that, over 0.5 to below 1.
    """
    found = with_secrets(watch(
        bucket=bucket, days=days, readings=readings, corrections=corrections, low=low, widths=widths, unknown=unknown,
        certainty=certainty), S3_SECRET)
    found.set_caching_options(False)  # users have sent more, and another model may serve by now
