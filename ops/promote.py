"""Step 4: the candidate takes the champion's place only if it reads better."""

from kfp import dsl
from kfp.dsl import Markdown, Output

from ops.embedding import SHARED, slim
from ops.packages import BASE_IMAGE, requirements


@slim
@dsl.component(base_image=BASE_IMAGE, packages_to_install=requirements("promote"), embedded_artifact_path=SHARED)
def promote(candidate: str, candidate_cer: float, champion: str, champion_cer: float, reason: Output[Markdown],
            margin: float = 0.0) -> bool:
    """Decides whether the candidate is deployed.

    Args:
        candidate: URI of the new bundle.
        candidate_cer: Its CER on the test lines.
        champion: URI of the bundle that serves, "" for none.
        champion_cer: Its CER on the same lines.
        reason: Why, in one sentence.
        margin: CER by which the candidate must be lower, 0 to 1.

    Returns:
        True to deploy.
    """
    from pathlib import Path

    from handwriting.promotion import decide

    decision = decide(candidate, candidate_cer, champion, champion_cer, margin)
    Path(reason.path).write_text(decision.reason, "utf-8")
    print(decision.reason)
    return decision.promote
