"""The train step as Katib and Kubeflow Trainer run it."""

from handwriting.component import Step
from ops.train import train


def train_step(image: str = "") -> Step:
    """Returns what a trial or a node needs to know of the train component: the very command that the pipeline runs.

    Args:
        image: An image other than the component's own.
    """
    spec = train.component_spec
    container = spec.implementation.container
    artifacts = {name: output.type.partition("@")[0] for name, output in spec.outputs.items() if "@" in output.type}
    return Step(image or container.image, container.command, train.python_func.__name__, artifacts)
