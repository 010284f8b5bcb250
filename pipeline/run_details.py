"""Which steps of a run there are, and why one failed, from what the API server tells.

The server lists the nodes of the Argo workflow: the workflow and `root` around all, for each step `NAME-driver`, `NAME`
and within it `executor`, with `(0)`, `(1)`, ... for attempts. Up to 2.17 it does not fill in the nodes' errors
(`NodeStatuses` and `toApiPipelineTaskDetail` in its sources leave them out), so the reason is looked for in the log of
the step's pod too; there our own errors stand as one line.
"""

import logging
import re
from typing import Any

from handwriting.errors import PipelineError

log = logging.getLogger(__name__)

ATTEMPT = re.compile(r"\(\d+\)$")
WORKFLOW = re.compile(r"-[a-z0-9]{5}$")  # what Argo appends to the pipeline's name
PYTHON_ERROR = re.compile(r"^(?:(?:[a-z_]\w*\.)+[A-Z]\w*|[A-Z]\w*(?:Error|Exception)): \S.*$", re.MULTILINE)
LONGEST = 1000  # characters of a reason


def tasks(run: Any) -> list[Any]:
    """Returns the nodes of a run in the order in which they started."""
    found = (run.run_details.task_details if run.run_details else None) or []
    return sorted(found, key=lambda task: (task.start_time is None, str(task.start_time or "")))


def step_of(task: Any, run: Any) -> str:
    """Returns the step that a node is, or "" for one that only surrounds or carries out steps."""
    name = ATTEMPT.sub("", task.display_name or "")
    spec = run.pipeline_spec if isinstance(run.pipeline_spec, dict) else {}
    spec = spec.get("pipeline_spec", spec)
    pipeline = spec.get("pipelineInfo", {}).get("name", "handwriting")
    workflow = name == pipeline or WORKFLOW.sub("", name) == pipeline
    name = name.removesuffix("-driver")
    return "" if workflow or name in ("root", "executor") or name.startswith("condition-") else name


def states(run: Any) -> dict[str, str]:
    """Returns the state of each step, in the order in which they started.

    While only its driver has run, a step has not ended.
    """
    found: dict[str, str] = {}
    for task in tasks(run):
        step = step_of(task, run)
        driver = (task.display_name or "").endswith("-driver")
        if step and task.state and not (driver and (step in found or task.state == "SUCCEEDED")):
            found[step] = task.state
    return found


def failure(client: Any, run: Any) -> str:
    """Returns the step in which a run ended without success, and the reason, to stand behind "run X failed".

    Args:
        client: Reads the log of the step's pod.
        run: Has ended.
    """
    bad = [task for task in tasks(run) if task.state == run.state]
    named = [task for task in bad if step_of(task, run)]
    if not named:
        return f": {_error(run)}" if _error(run) else ""
    task = named[-1]  # what surrounds a step started before it
    nodes = [task, *_below(task, run)]
    reason = next(filter(None, map(_error, nodes)), "") or _error(run)
    if not reason and run.state == "FAILED":
        reason = _last_words(client, run, nodes) or "its pod gives no reason; see the log of the step"
    return f" in step {step_of(task, run)}{': ' if reason else ''}{reason}"


def _below(task: Any, run: Any) -> list[Any]:
    """Returns the nodes within a node that ended like it; the server names them by task or by pod."""
    by_id = {name: other for other in tasks(run) for name in (other.task_id, other.pod_name) if name}
    found: list[Any] = []
    todo = [task]
    while todo:
        children = todo.pop().child_tasks or []
        for child in children:
            other = by_id.get(child.task_id) or by_id.get(child.pod_name)
            if other is not None and other.state == task.state and other is not task and other not in found:
                found.append(other)
                todo.append(other)
    return found


def _error(task: Any) -> str:
    """Returns the message of a node or run, from its error or its history."""
    errors = [task.error, *(status.error for status in reversed(task.state_history or []))]
    return next((error.message.strip()[:LONGEST] for error in errors if error and error.message), "")


def _last_words(client: Any, run: Any, nodes: list[Any]) -> str:
    """Returns the last error in the logs of some nodes' pods, "" where none can be read."""
    pods = [pod for node in reversed(nodes)
            for pod in (node.pod_name, *(child.pod_name for child in node.child_tasks or [])) if pod]
    for pod in dict.fromkeys(pods):
        try:
            text = client.read_log(run.run_id, pod)
        except PipelineError as error:
            log.debug("no log of %s: %s", pod, error)
            continue
        if found := PYTHON_ERROR.findall(text):
            return found[-1].strip()[:LONGEST]
    return ""
