"""Step 3: candidate and champion read the same test lines."""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import HTML, Metrics, Output

from ops.embedding import SHARED, slim
from ops.packages import BASE_IMAGE, requirements


@slim
@dsl.component(base_image=BASE_IMAGE, packages_to_install=requirements("evaluate"), embedded_artifact_path=SHARED)
def evaluate(
    model: str,
    dataset: str,
    bucket: str,
    metrics: Output[Metrics],
    report: Output[HTML],
    split: str = "test",
    language_model: bool = True,
) -> NamedTuple("Scores", [("cer", float), ("champion", str), ("champion_cer", float)]):  # type: ignore[valid-type]
    """Scores a bundle and the one that serves now. Reads S3 credentials.

    Args:
        model: URI of the candidate.
        dataset: URI of the dataset.
        bucket: `s3://bucket` whose `models/current.json` names the champion.
        metrics: The candidate's scores, and the champion's CER.
        report: Worst lines as pictures with truth and reading, commonest confusions.
        split: Lines to read.
        language_model: Read by beam search with each bundle's language model, as the service will.

    Returns:
        cer: Of the candidate, 0 is perfect.
        champion: URI of the bundle that serves, "" for none.
        champion_cer: Of the champion; 1.0 where there is none.
    """
    from pathlib import Path

    from handwriting import evaluation, layout
    from handwriting.bundle import find_champion
    from handwriting.store import join

    champion = find_champion(join(bucket, layout.MODELS))
    result = evaluation.evaluate(model, dataset, split, language_model)
    same = champion == model
    champion_cer = 1.0
    if champion:
        other = result if same else evaluation.evaluate(champion, dataset, split, language_model)
        champion_cer = other.scores.cer
    for name, value in {**result.scores.as_dict(), "champion_cer": champion_cer}.items():
        metrics.log_metric(name, value)
    Path(report.path).write_text(result.report, "utf-8")
    return result.scores.cer, champion, champion_cer
