"""Step 5: a bundle goes into service as a KServe InferenceService, once it has proven that it answers."""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Artifact, Output

from ops.embedding import SHARED, slim
from ops.packages import BASE_IMAGE, requirements


@slim
@dsl.component(base_image=BASE_IMAGE, packages_to_install=requirements("deploy"), embedded_artifact_path=SHARED)
def deploy(
    model: str,
    bucket: str,
    manifest: Output[Artifact],
    name: str = "handwriting",
    namespace: str = "kubeflow-user",
    mode: str = "Standard",
    image: str = "python:3.11-slim",
    python: str = "3.11",
    machine: str = "x86_64",
    install: bool = True,
    language_model: bool = True,
    keep_share: float = 1.0,
    min_replicas: int = 1,
    max_replicas: int = 3,
    canary: int = 10,
    timeout: float = 900.0,
    smoke: bool = True,
    apply: bool = True,
) -> NamedTuple("Service", [("url", str), ("version", str)]):  # type: ignore[valid-type]
    """Rolls a model out and waits until it truly serves, else rolls back. Reads S3 credentials.

    `models/current.json` names the model last, when all of this is done.

    Args:
        model: URI of the bundle.
        bucket: `s3://bucket` whose `data/user_data/` gets the pictures that users send.
        manifest: The InferenceService as JSON, which `kubectl apply -f` takes too.
        name: Name of the service.
        namespace: Namespace of the service.
        mode: "Standard" or "Knative", "RawDeployment" or "Serverless" up to KServe 0.15; a service keeps it for its
            whole life.
        image: Image of the predictor; with `install` it needs `python`, pip and glibc, else all packages.
        python: Version of Python in the image, for which the bundle gets wheels.
        machine: Machine of the image: "x86_64" or "aarch64".
        install: Install the wheels of the bundle; False for an image that has the packages.
        language_model: Read by beam search with the bundle's language model.
        keep_share: Share of the users' pictures that is kept, 0 (none) to 1.
        min_replicas: Fewest pods; 0 in Knative mode only.
        max_replicas: Most pods.
        canary: Percent of the requests that a new version gets before it has answered; Knative mode only.
        timeout: Seconds until the new version must serve.
        smoke: Ask the service itself for its version and one reading.
        apply: False only makes the manifest, on a machine without a cluster.

    Returns:
        url: Address of the service.
        version: Version of the model that serves.
    """
    import json
    from pathlib import Path

    from handwriting import layout
    from handwriting.deployment import deploy as run
    from handwriting.inference_service import KNATIVE_MODES, ServiceConfig
    from handwriting.rollout import WaitConfig
    from handwriting.smoke_test import smoke_test
    from handwriting.store import join

    config = ServiceConfig(
        name=name, namespace=namespace, mode=mode, image=image, python=python, machine=machine, install=install,
        language_model=language_model, keep_share=keep_share, min_replicas=min_replicas, max_replicas=max_replicas,
        canary_percent=canary if mode in KNATIVE_MODES else None, data_uri=join(bucket, layout.DATA))
    service = run(model, config, apply, WaitConfig(timeout=timeout), smoke_test if smoke else None)
    Path(manifest.path).write_text(json.dumps(service.manifest, indent=1), "utf-8")
    return service.url, service.version
