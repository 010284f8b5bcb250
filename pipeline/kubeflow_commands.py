"""The commands that talk to Kubeflow Pipelines: versions, the recurring run, and runs that new labels start."""

import argparse
import os
import shlex
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from handwriting.errors import ConfigError
from handwriting.store import join
from pipeline.command_options import add_command, add_config, config_of


def add_commands(commands: Any) -> None:
    """Adds them to the command line."""
    for add in (_add_webhook, _add_upload, _add_schedule, _add_unschedule, _add_list):
        add(commands)


def _add_webhook(commands: Any) -> None:
    from pipeline.new_labels import StartConfig

    command = add_command(commands, webhook_command)
    command.add_argument("--project", type=int, required=True, help="number of the project")
    command.add_argument("--bucket", required=True, help="s3:// bucket that the runs get")
    command.add_argument("--label-studio-url", default=os.environ.get("LABEL_STUDIO_URL", "http://localhost:8080"),
                         help="address, as the runs see it; with LABEL_STUDIO_TOKEN labels that no event told of count")
    add_config(command, StartConfig)
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the pipeline")
    command.add_argument("--kfp-host", default="", help="address of Kubeflow Pipelines (default: as kfp finds it)")
    command.add_argument("--kfp-namespace", default="", help="namespace of the runs in a multi-user Kubeflow")
    command.add_argument("--run-command", default="", help="a run is this command on this machine, not Kubeflow's")
    command.add_argument("--state", default="", help="s3:// URI or folder of the count (default: <bucket>/webhook)")
    command.add_argument("--register", default="", metavar="URL", help="let Label Studio send its events to this "
                                                                       "address of mine, .../webhook")
    command.add_argument("--poll", type=float, default=15.0, help="seconds between two looks at clock and run")
    command.add_argument("--host", default="0.0.0.0")
    command.add_argument("--port", type=int, default=8080)


def webhook_command(options: argparse.Namespace) -> None:
    """Starts a run after some new labels, or after some minutes without another one; serves until Ctrl-C.

    Label Studio's events come to POST /webhook with the secret of HANDWRITING_WEBHOOK_SECRET. GET /status tells the
    count.
    """
    from handwriting import label_studio
    from handwriting.store import open_store
    from pipeline import webhook
    from pipeline.label_events import labels_since
    from pipeline.labelling import ensure_webhook
    from pipeline.new_labels import NewLabels, StartConfig
    from pipeline.run_starter import RunStarter

    secret, config = webhook.secret_from_environment(), config_of(StartConfig, options)
    store = open_store(options.state or join(options.bucket, webhook.FOLDER))
    runs, look_up = _runs(options, store), None
    if options.register or os.environ.get(label_studio.TOKEN_VARIABLE):
        client = label_studio.from_environment(options.label_studio_url)
        look_up = partial(labels_since, client, options.project)
    if options.register:
        ensure_webhook(client, options.project, options.register, secret)
    webhook.serve(lambda: RunStarter(NewLabels(store, options.project, time.time), runs, config, look_up, options.poll),
                  secret, store, options.host, options.port)


def _runs(options: argparse.Namespace, store: Any) -> Any:
    from handwriting.store import LocalStore
    from pipeline.label_runs import KfpRuns, LocalRuns

    if not options.run_command:
        from pipeline.arguments import typed
        from pipeline.client import connect

        given = typed(options.set)
        return KfpRuns(partial(connect, options.kfp_host, options.kfp_namespace), {
            "label_studio_url": options.label_studio_url, "project": options.project, "bucket": options.bucket} | given)
    if not isinstance(store, LocalStore):
        raise ConfigError(f"--run-command starts runs on this machine: give a folder here as --state, not {store.root}")
    return LocalRuns(shlex.split(options.run_command), store.folder / "runs", {
        "LABEL_STUDIO_URL": options.label_studio_url, "LABEL_STUDIO_PROJECT": str(options.project),
        "HANDWRITING_BUCKET": options.bucket})


def _add_server_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--host", default="", help="address of Kubeflow Pipelines; the token comes from KFP_TOKEN "
                                                    "(default: KF_PIPELINES_ENDPOINT, this cluster, or kubectl's)")
    command.add_argument("--namespace", default="", help="namespace of the runs in a multi-user Kubeflow")


def _add_pipeline_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--pipeline", choices=["handwriting", "drift"], default="handwriting",
                         help="the whole one, or the look at what users send")


def _pipeline(name: str) -> Any:
    from pipeline.drift_pipeline import drift_pipeline
    from pipeline.handwriting_pipeline import handwriting_pipeline

    return {"handwriting": handwriting_pipeline, "drift": drift_pipeline}[name]


def _add_upload(commands: Any) -> None:
    command = add_command(commands, upload_command)
    _add_pipeline_option(command)
    _add_server_options(command)


def upload_command(options: argparse.Namespace) -> Mapping[str, Any]:
    """Uploads this checkout's pipeline as a version named by git revision; one that is there stays as it is."""
    from pipeline.client import connect
    from pipeline.versions import upload

    return upload(connect(options.host, options.namespace), pipeline=_pipeline(options.pipeline))._asdict()


def _add_schedule(commands: Any) -> None:
    command = add_command(commands, schedule_command)
    when = command.add_mutually_exclusive_group(required=True)
    when.add_argument("--cron", default="", help='six fields, seconds first, UTC: "0 0 3 * * 1" is Mondays at 03:00')
    when.add_argument("--every", default="", help="interval: 30m, 6h, 1d")
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the pipeline")
    _add_pipeline_option(command)
    _add_server_options(command)


def schedule_command(options: argparse.Namespace) -> Mapping[str, Any]:
    """Creates the recurring run of this checkout's pipeline, or updates it; uploads the pipeline first.

    One run at a time, and no catching up on times that were missed.
    """
    from pipeline.arguments import typed
    from pipeline.client import connect
    from pipeline.schedules import schedule
    from pipeline.triggers import Trigger, every
    from pipeline.versions import upload

    trigger = every(options.every) if options.every else Trigger(cron=options.cron)
    pipeline = _pipeline(options.pipeline)
    arguments = typed(options.set, pipeline)
    client = connect(options.host, options.namespace)
    return schedule(client, trigger, arguments, upload(client, pipeline=pipeline), pipeline)


def _add_unschedule(commands: Any) -> None:
    command = add_command(commands, unschedule_command)
    _add_pipeline_option(command)
    _add_server_options(command)


def unschedule_command(options: argparse.Namespace) -> Mapping[str, Any]:
    """Deletes the recurring run of the pipeline; a run that is under way goes on."""
    from pipeline.client import connect
    from pipeline.schedules import unschedule

    return {"deleted": unschedule(connect(options.host, options.namespace), _pipeline(options.pipeline))}


def _add_list(commands: Any) -> None:
    _add_server_options(add_command(commands, list_command))


def list_command(options: argparse.Namespace) -> Mapping[str, Any]:
    """Lists the recurring runs: name, trigger, enabled, next and last time, version of the pipeline."""
    from pipeline.client import connect
    from pipeline.schedules import listed

    return {"schedules": listed(connect(options.host, options.namespace))}
