"""Step 1: labels of Label Studio and pictures of the bucket become a packed dataset."""

from kfp import dsl
from kfp.dsl import Artifact, Metrics, Output

from ops.embedding import SHARED, slim
from ops.packages import BASE_IMAGE, requirements


@slim
@dsl.component(base_image=BASE_IMAGE, packages_to_install=requirements("preprocess"), embedded_artifact_path=SHARED)
def preprocess(
    label_studio_url: str,
    project: int,
    bucket: str,
    metrics: Output[Metrics],
    rejects: Output[Artifact],
    alphabet: str = "",
    height: int = 64,
    squeeze: float = 1.0,
    max_rejects: float = 0.2,
    sync: bool = True,
    captioning: str = "captioning",
    caption: str = "caption",
) -> str:
    """Exports a Label Studio project and packs it under `datasets/`. Reads LABEL_STUDIO_TOKEN and S3 credentials.

    Args:
        label_studio_url: Address of Label Studio.
        project: Number of the project.
        bucket: `s3://bucket`, with the pictures under `data/`.
        metrics: Counts of lines, rejects and pictures read; pixels of a line's width to a character.
        rejects: JSON list of what was left out: task, uri, reason, detail.
        alphabet: The characters, "" for the Vietnamese 207, or "labels" to take them from the training labels.
        height: Height of a line in px.
        squeeze: Width of a line, as a share of what its picture's aspect gives, 0.25 to 2; less takes less time.
        max_rejects: Share of labelled pictures that may be rejected, 0 to 1.
        sync: Let Label Studio look for new pictures first.
        captioning: Key of a task's data that holds the picture's URI.
        caption: Name of the text area with the label.

    Returns:
        URI of the dataset.
    """
    from handwriting import label_studio, layout
    from handwriting.alphabet import VIETNAMESE
    from handwriting.image import ImageConfig
    from handwriting.labels import LabelConfig
    from handwriting.packing import PackConfig
    from handwriting.preprocessing import preprocess as run
    from handwriting.store import join

    packed = run(label_studio.from_environment(label_studio_url), project, join(bucket, layout.DATA),
                 join(bucket, layout.DATASETS), LabelConfig(captioning=captioning, caption=caption),
                 PackConfig(ImageConfig(height=height, squeeze=squeeze), alphabet or VIETNAMESE, max_rejects), sync)
    for name, value in packed.metrics().items():
        metrics.log_metric(name, value)
    packed.write_rejects(rejects.path)
    return packed.uri
