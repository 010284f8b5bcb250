"""The recurring run of a pipeline, which has the pipeline's name.

A recurring run cannot be changed in place. The new one is made first, disabled; then the old one is disabled, the new
one enabled, and the old one deleted. At no time are both enabled, and a step that fails is taken back, so that the old
one goes on. A process killed between the two leaves both disabled: `list` shows it, and `schedule` again puts it right.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from kfp.dsl.graph_component import GraphComponent
from kfp_server_api.models import (RecurringRunMode, V2beta1CronSchedule, V2beta1DeletePropagationPolicy,
                                   V2beta1PeriodicSchedule, V2beta1PipelineVersionReference, V2beta1RecurringRun,
                                   V2beta1RuntimeConfig, V2beta1Trigger)

from handwriting.errors import ConfigError, PipelineError
from pipeline.arguments import checked
from pipeline.client import EXPERIMENT, Client
from pipeline.handwriting_pipeline import handwriting_pipeline
from pipeline.triggers import Trigger
from pipeline.versions import Version

log = logging.getLogger(__name__)

RECENT = 200  # runs to look through for the last one of a schedule


def schedule(client: Client, trigger: Trigger, arguments: Mapping[str, Any], version: Version,
             pipeline: GraphComponent = handwriting_pipeline) -> dict[str, Any]:
    """Makes the recurring run, or puts another in its place where something differs; one run at a time, no catch-up.

    Args:
        client: From `pipeline.client.connect`.
        trigger: When runs start.
        arguments: Of the pipeline; the others have defaults.
        version: Of the pipeline.
        pipeline: To run.

    Returns:
        The recurring run as `listed` shows it, with `changed`.

    Raises:
        ConfigError: An argument does not fit the pipeline; nothing was sent.
        PipelineError: The server refuses a step; the recurring run is as it was, or the message says what is left.
    """
    wanted = _recurring_run(client, trigger, checked(arguments, pipeline), version, pipeline.name)
    old = ours(client, pipeline)
    if len(old) == 1 and _enabled(old[0]) and _content(old[0]) == _content(wanted):
        return {**_described(client, old[0]), "changed": False}
    new = client.ask("a new recurring run", lambda: (
        client.recurring_runs.recurring_run_service_create_recurring_run(wanted)))
    _swap(client, [run for run in old if run.status != "DISABLED"], new)  # one in error may start runs again
    for run in old:
        try:
            _delete(client, run)
        except PipelineError as error:
            log.warning("a disabled recurring run is left (%s); schedule again to remove it", error)
    now = client.ask("the recurring run", lambda: client.get_recurring_run(new.recurring_run_id))
    return {**_described(client, now), "changed": True}


def unschedule(client: Client, pipeline: GraphComponent = handwriting_pipeline) -> list[str]:
    """Deletes the recurring run of a pipeline; a run that is under way goes on. Returns the ids of what was deleted.

    Raises:
        PipelineError: The server refuses it.
    """
    found = ours(client, pipeline)
    for run in found:
        _delete(client, run)
    return [str(run.recurring_run_id) for run in found]


def listed(client: Client) -> list[dict[str, Any]]:
    """Describes all recurring runs of the namespace: name, trigger, enabled, next and last time, pipeline version.

    Raises:
        PipelineError: The server cannot be asked.
    """
    return [_described(client, run) for run in _recurring_runs(client)]


def ours(client: Client, pipeline: GraphComponent) -> list[Any]:
    """Returns the recurring runs that have the pipeline's name: one, or more where an update was cut off."""
    return [run for run in _recurring_runs(client) if run.display_name == pipeline.name]


def _recurring_runs(client: Client) -> list[Any]:
    namespace = client.get_user_namespace() or None
    return list(client.pages("recurring runs", partial(client.list_recurring_runs, namespace=namespace),
                             "recurring_runs"))


def _recurring_run(client: Client, trigger: Trigger, arguments: dict[str, Any], version: Version, name: str) -> Any:
    """Returns what is sent to the server: disabled, since the old one may still be enabled."""
    experiment = client.ask("the experiment", lambda: client.create_experiment(EXPERIMENT))
    when = V2beta1Trigger(cron_schedule=V2beta1CronSchedule(cron=trigger.cron)) if trigger.cron else V2beta1Trigger(
        periodic_schedule=V2beta1PeriodicSchedule(interval_second=str(trigger.seconds)))
    return V2beta1RecurringRun(
        display_name=name, experiment_id=experiment.experiment_id, trigger=when,
        mode=RecurringRunMode.DISABLE, max_concurrency="1", no_catchup=True,
        pipeline_version_reference=V2beta1PipelineVersionReference(
            pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id),
        runtime_config=V2beta1RuntimeConfig(parameters=arguments))


def _content(run: Any) -> tuple[Any, ...]:
    """Returns what makes two recurring runs the same."""
    reference = run.pipeline_version_reference
    return (_trigger(run), run.runtime_config.parameters or {} if run.runtime_config else {}, run.experiment_id,
            reference and reference.pipeline_version_id, int(run.max_concurrency or 0), bool(run.no_catchup))


def _trigger(run: Any) -> Trigger | None:
    """Returns when a recurring run starts; None for what somebody made with an expression of another form."""
    cron, periodic = run.trigger and run.trigger.cron_schedule, run.trigger and run.trigger.periodic_schedule
    try:
        return Trigger(cron=cron.cron if cron else "", seconds=int(periodic.interval_second) if periodic else 0)
    except ConfigError:
        return None


def _enabled(run: Any) -> bool:
    return bool(run.status == "ENABLED")


def _swap(client: Client, old: list[Any], new: Any) -> None:
    """Disables the old ones and enables the new one; takes it all back where a step fails."""
    try:
        for run in old:
            client.ask("a pause of the old recurring run", lambda: client.disable_recurring_run(run.recurring_run_id))
        client.ask("the start of the new recurring run", lambda: client.enable_recurring_run(new.recurring_run_id))
    except PipelineError as error:
        raise PipelineError(f"{error}; {_take_back(client, old, new)}") from error


def _take_back(client: Client, old: list[Any], new: Any) -> str:
    """Deletes the new one, which may be enabled by now, and only then enables the old ones; says how that went."""
    try:
        _delete(client, new)
        for run in old:
            client.ask("the old recurring run", lambda: client.enable_recurring_run(run.recurring_run_id))
    except PipelineError as error:
        return f"it could not be taken back ({error}): look at `python -m pipeline list`, and schedule again"
    return "the recurring run is as it was" if old else "no recurring run is enabled"


def _delete(client: Client, run: Any) -> None:
    """Deletes a recurring run; ORPHAN, because Kubernetes would otherwise delete its runs that are under way too."""
    client.ask("deleting a recurring run", lambda: client.recurring_runs.recurring_run_service_delete_recurring_run(
        run.recurring_run_id, propagation_policy=V2beta1DeletePropagationPolicy.ORPHAN))


def _described(client: Client, run: Any) -> dict[str, Any]:
    """Describes a recurring run; the server tells neither its last time nor its next one."""
    trigger, last = _trigger(run), _last(client, run)
    now = datetime.now(UTC)
    after = trigger.following(last or run.created_at or now, now) if trigger and _enabled(run) else None
    return {"name": run.display_name, "id": run.recurring_run_id, "trigger": str(trigger or "another form"),
            "enabled": _enabled(run), "next": _stamp(after), "last": _stamp(last),
            "version": _version_name(client, run), "arguments": (run.runtime_config.parameters or {}
                                                                 if run.runtime_config else {})}


def _last(client: Client, run: Any) -> datetime | None:
    """Returns when the last run of a recurring run was due, among the recent ones of its experiment."""
    found = client.ask("its runs", lambda: client.list_runs(
        page_size=RECENT, sort_by="created_at desc", experiment_id=run.experiment_id)).runs or []
    return next((other.scheduled_at or other.created_at for other in found
                 if other.recurring_run_id == run.recurring_run_id), None)


def _version_name(client: Client, run: Any) -> str:
    """Returns the name of its pipeline version; "" where it has a spec of its own or always takes the latest."""
    reference = run.pipeline_version_reference
    if not reference or not reference.pipeline_version_id:
        return ""
    return str(client.ask("its pipeline version", lambda: client.get_pipeline_version(
        reference.pipeline_id, reference.pipeline_version_id)).display_name)


def _stamp(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None
