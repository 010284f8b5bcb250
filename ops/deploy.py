"""Step 5: a bundle goes into service as a KServe InferenceService."""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Artifact, Output

from ops.packages import BASE_IMAGE, SHARED, requirements


@dsl.component(base_image=BASE_IMAGE, packages_to_install=requirements("deploy"), embedded_artifact_path=SHARED)
def deploy(
    model: str,
    bucket: str,
    manifest: Output[Artifact],
    name: str = "handwriting",
    namespace: str = "kubeflow-user",
    mode: str = "Standard",
    image: str = "python:3.11-slim",
    min_replicas: int = 1,
    max_replicas: int = 3,
    apply: bool = True,
) -> NamedTuple("Service", [("url", str), ("version", str)]):  # type: ignore[valid-type]
    """Creates or replaces the service, then lets `models/current.json` name the bundle. Reads S3 credentials.

    Args:
        model: URI of the bundle.
        bucket: `s3://bucket` whose `data/user_data/` gets the pictures that users send.
        manifest: The InferenceService as JSON, which `kubectl apply -f` takes too.
        name: Name of the service.
        namespace: Namespace of the service.
        mode: "Standard" or "Knative"; a service keeps it for its whole life.
        image: Image of the predictor; Python 3.11 or newer with pip.
        min_replicas: Fewest pods.
        max_replicas: Most pods.
        apply: False only makes the manifest, on a machine without a cluster.

    Returns:
        url: Address inside the cluster.
        version: Version of the model that serves.
    """
    import json
    from pathlib import Path

    from handwriting import layout
    from handwriting.deployment import deploy as run
    from handwriting.inference_service import ServiceConfig
    from handwriting.store import join

    config = ServiceConfig(name=name, namespace=namespace, mode=mode, image=image, min_replicas=min_replicas,
                           max_replicas=max_replicas, data_uri=join(bucket, layout.DATA))
    service = run(model, config, apply)
    Path(manifest.path).write_text(json.dumps(service.manifest, indent=1), "utf-8")
    return service.url, service.version
