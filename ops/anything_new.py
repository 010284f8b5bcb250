"""Step 1b: a run whose dataset the serving model knows already ends here."""

from kfp import dsl
from kfp.dsl import Markdown, Output

from ops.embedding import SHARED, slim
from ops.packages import BASE_IMAGE, requirements


@slim
@dsl.component(base_image=BASE_IMAGE, packages_to_install=requirements("anything_new"), embedded_artifact_path=SHARED)
def anything_new(dataset: str, bucket: str, reason: Output[Markdown], force: bool = False) -> bool:
    """Decides whether the run goes on. Reads S3 credentials.

    Args:
        dataset: URI of the dataset.
        bucket: `s3://bucket` whose `models/current.json` names the model that serves.
        reason: Why, in one sentence.
        force: Go on in any case.

    Returns:
        True where there is something to learn.
    """
    from pathlib import Path

    from handwriting import layout, news
    from handwriting.store import join

    found = news.anything_new(dataset, join(bucket, layout.MODELS), force)
    Path(reason.path).write_text(found.reason, "utf-8")
    print(found.reason)
    return found.new
