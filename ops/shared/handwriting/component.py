"""A component of the pipeline as a command that runs outside Kubeflow Pipelines: in a trial, or on a node."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SCRATCH = "/tmp/trial"  # where such a pod keeps what nobody collects


@dataclass(frozen=True)
class Step:
    """A component, as its compiled specification has it.

    Attributes:
        image: Its base image.
        command: Its container's command.
        function: Name of the Python function.
        artifacts: Schema titles of its output artifacts by name.
    """

    image: str
    command: Sequence[str]
    function: str
    artifacts: Mapping[str, str]


def trial_command(step: Step, values: Mapping[str, Any], scratch: str) -> list[str]:
    """Returns a component's command with its arguments as the launcher of Kubeflow Pipelines would give them.

    Args:
        step: The component.
        values: Its arguments.
        scratch: Local folder for its outputs.
    """
    outputs = {name: {"artifacts": [{"name": name, "type": {"schemaTitle": title, "schemaVersion": "0.0.1"},
                                     "uri": f"{scratch}/{name}", "metadata": {}}]}
               for name, title in step.artifacts.items()}
    executor_input = json.dumps({"inputs": {"parameterValues": dict(values)}, "outputs": {
        "parameters": {"Output": {"outputFile": f"{scratch}/Output"}}, "artifacts": outputs,
        "outputFile": f"{scratch}/executor_output.json"}})
    return [*step.command, "--executor_input", executor_input, "--function_to_execute", step.function]
