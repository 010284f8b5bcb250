"""Compiles the pipeline, and sees that no component is too large for its pod."""

from pathlib import Path

import yaml
from kfp import compiler
from kfp.dsl.graph_component import GraphComponent

from pipeline.handwriting_pipeline import Machine, make_pipeline

LARGEST_SOURCE = 72 * 1024
"""Bytes of one component's source: Linux takes 128 KiB for one argument, and the workflow object, which holds several
copies of each, 1 MiB."""


def compile_pipeline(path: Path, machine: Machine = Machine()) -> dict[str, int]:
    """Writes the spec of the pipeline whose train step runs on a machine; as `write_spec` does."""
    return write_spec(path, make_pipeline(machine))


def write_spec(path: Path, pipeline: GraphComponent) -> dict[str, int]:
    """Writes the spec of a pipeline.

    Args:
        path: The YAML file to write; its folder is made.
        pipeline: To compile.

    Returns:
        Bytes of source by component.

    Raises:
        ValueError: A component is larger than LARGEST_SOURCE.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(pipeline, str(path))
    sizes = source_sizes(path.read_text("utf-8"))
    large = {name: size for name, size in sizes.items() if size > LARGEST_SOURCE}
    if large:
        raise ValueError(f"components over {LARGEST_SOURCE} bytes: {large}; move what pods do not need out of "
                         "ops/shared/handwriting")
    return sizes


def source_sizes(text: str) -> dict[str, int]:
    """Returns the bytes of source of each component in a compiled spec."""
    executors = next(yaml.safe_load_all(text))["deploymentSpec"]["executors"]
    return {name.removeprefix("exec-"): len(executor["container"]["command"][-1].encode())
            for name, executor in executors.items()}
