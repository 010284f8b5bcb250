"""Writes the pipeline spec that Kubeflow Pipelines takes, and what the cluster needs beside it: `python compile.py`."""

import argparse
from pathlib import Path

from handwriting.errors import ConfigError
from pipeline.cluster_manifests import ClusterConfig, write_cluster_files
from pipeline.compiling import compile_pipeline, write_spec
from pipeline.drift_pipeline import drift_pipeline
from pipeline.handwriting_pipeline import Machine

BUILD = Path(__file__).resolve().parent / "build"


def main() -> None:
    """Compiles into a folder and says what to do next."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=BUILD, help="folder to write to")
    parser.add_argument("--namespace", default=ClusterConfig.namespace, help="namespace of the InferenceService")
    parser.add_argument("--pipeline-namespace", default="", help="namespace of the pipeline's pods, if another one")
    parser.add_argument("--service-account", default=ClusterConfig.service_account,
                        help="of these pods; in the profiles of a multi-user Kubeflow default-editor")
    parser.add_argument("--train-image", default=Machine.image, help="of the train step; for GPUs one with CUDA")
    parser.add_argument("--gpus", type=int, default=Machine.gpus, help="of the train step, or of each of its nodes")
    parser.add_argument("--nodes", type=int, default=Machine.nodes,
                        help="machines that train together, with Kubeflow Trainer")
    parser.add_argument("--train-cpu", default=Machine.cpu, help="cores that the train step asks for")
    parser.add_argument("--train-memory", default=Machine.memory, help="memory that the train step asks for")
    parser.add_argument("--shared-memory", default=Machine.shared_memory, help="size of its /dev/shm, such as 1Gi")
    options = parser.parse_args()
    try:
        config = ClusterConfig(options.namespace, options.pipeline_namespace, options.service_account)
        machine = Machine(options.train_image, options.gpus, options.train_cpu, options.train_memory,
                          options.shared_memory, options.nodes)
    except ConfigError as error:
        parser.error(str(error))
    pipeline, drift = options.out / "pipeline.yaml", options.out / "drift.yaml"
    sizes = compile_pipeline(pipeline, machine) | write_spec(drift, drift_pipeline)
    cluster, secrets, service, experiment = write_cluster_files(options.out, config)
    for component, size in sizes.items():
        print(f"{component:12} {size / 1024:5.1f} KiB of source")
    print(f"""
Wrote {pipeline}, {drift.name}, {cluster.name}, {secrets.name}, {service.name} and {experiment.name}. Next:
  1. fill in a copy of {secrets}, and kubectl apply -f it, once
  2. kubectl apply -f {cluster}: accounts and rights
  3. upload {pipeline} in the Kubeflow Pipelines UI (Pipelines, Upload pipeline), or
     kfp pipeline create -p handwriting {pipeline}
{drift} is the weekly look at what users send, to upload likewise;
{service} is an example of what the deploy step applies;
{experiment} searches better hyperparameters with Katib, if you apply it.""")


if __name__ == "__main__":
    main()
