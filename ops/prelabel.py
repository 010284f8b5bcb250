"""Step 1a: the model that serves reads what nobody has labelled yet, for people to correct in Label Studio."""

from kfp import dsl
from kfp.dsl import Metrics, Output

from ops.embedding import SHARED, slim
from ops.packages import BASE_IMAGE, requirements


@slim
@dsl.component(base_image=BASE_IMAGE, packages_to_install=requirements("prelabel"), embedded_artifact_path=SHARED)
def prelabel(
    label_studio_url: str,
    project: int,
    bucket: str,
    metrics: Output[Metrics],
    model: str = "",
    language_model: bool = True,
    uncertain_first: bool = True,
    sync: bool = True,
    caption: str = "caption",
) -> None:
    """Posts the model's readings of unlabelled tasks as predictions. Reads LABEL_STUDIO_TOKEN and S3 credentials.

    Args:
        label_studio_url: Address of Label Studio.
        project: Number of the project.
        bucket: `s3://bucket`, with the pictures under `data/`.
        metrics: Counts of tasks looked at, predictions posted, those there already, and pictures not read by reason.
        model: URI of a bundle; "" for the one that serves, and nothing is read where none does.
        language_model: Read with the bundle's language model.
        uncertain_first: Let the project show these predictions, and the least certain ones first.
        sync: Let Label Studio look for new pictures first.
        caption: Name of the text area.
    """
    from handwriting import label_studio, layout
    from handwriting.prelabelling import prelabel as run
    from handwriting.store import join

    done = run(label_studio.from_environment(label_studio_url), project, model or join(bucket, layout.MODELS),
               join(bucket, layout.DATA), caption, language_model, sync, uncertain_first)
    for name, value in done.metrics().items():
        metrics.log_metric(name, value)
