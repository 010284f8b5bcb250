"""The commands that read with a bundle, serve it, and make it ready for a cluster."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handwriting.errors import ImageError
from handwriting.inference_service import ServiceConfig
from pipeline.command_options import add_command, add_config, add_language_model_option, config_of


def add_commands(commands: Any) -> None:
    """Adds them to the command line."""
    for add in (_add_read, _add_serve, _add_wheels, _add_manifest):
        add(commands)


def _add_read(commands: Any) -> None:
    command = add_command(commands, read_command)
    command.add_argument("--model", required=True, help="a bundle, or the folder of models (the one that serves)")
    add_language_model_option(command)
    command.add_argument("image", nargs="+", type=Path, help="pictures of one line each")


def read_command(options: argparse.Namespace) -> Mapping[str, Any]:
    """Reads pictures; one that cannot be read does not stop the others, but gives exit status 1."""
    from handwriting.reader import Reader

    reader = Reader.fetch(options.model, language_model=options.language_model)
    readings = [_read(reader, path) for path in options.image]
    for reading in readings:
        if "error" in reading:
            print(f"error: {reading['image']}: {reading['error']}", file=sys.stderr)
    return {"version": reader.version, "readings": readings, "failed": sum("error" in r for r in readings)}


def _read(reader: Any, path: Path) -> dict[str, Any]:
    try:
        [reading] = reader.read([path.read_bytes()])
        return {"image": str(path), "text": reading.text, "confidence": round(reading.confidence, 4)}
    except (ImageError, OSError) as error:
        return {"image": str(path), "error": str(error)}


def _add_serve(commands: Any) -> None:
    from handwriting.user_data import KeepConfig

    command = add_command(commands, serve_command)
    command.add_argument("--model", required=True, help="a bundle, or the folder of models (the one that serves)")
    command.add_argument("--host", default="0.0.0.0")
    command.add_argument("--port", type=int, default=8080)
    command.add_argument("--data-uri", default="", help="keep users' pictures below this URI (default: keep none)")
    add_config(command, KeepConfig, ["spool", "share"])
    command.add_argument("--workers", type=int, default=1, help="processes, each with the model in memory")
    command.add_argument("--threads", type=int, default=64, help="connections a process holds open")
    add_language_model_option(command)


def serve_command(options: argparse.Namespace) -> None:
    """Serves a bundle over HTTP until Ctrl-C."""
    from handwriting.serving import serve
    from handwriting.user_data import KeepConfig

    serve(options.model, options.host, options.port, options.data_uri, options.workers, options.threads,
          language_model=options.language_model, keep=config_of(KeepConfig, options))


def _add_wheels(commands: Any) -> None:
    command = add_command(commands, wheels_command)
    command.add_argument("--model", required=True, help="a bundle, or the folder of models (the one that serves)")
    add_config(command, ServiceConfig, ["python", "machine"])


def wheels_command(options: argparse.Namespace) -> Mapping[str, Any]:
    """Completes a bundle with this project's predictor and the wheels it installs, as the deploy step does."""
    from handwriting import release, wheels
    from handwriting.bundle import find_bundle
    from handwriting.store import open_store

    config = config_of(ServiceConfig, options)
    bundle = open_store(find_bundle(options.model))
    code = release.add_code(bundle)
    return {"code": code, "wheels": wheels.ensure(bundle, code, wheels.Target(config.python, config.machine))}


def _add_manifest(commands: Any) -> None:
    command = add_command(commands, manifest_command)
    command.add_argument("--model-uri", required=True, help="the bundle, s3://.../models/<version>")
    command.add_argument("--canary-percent", type=int, help="share of the requests for it, in Knative mode")
    add_config(command, ServiceConfig)


def manifest_command(options: argparse.Namespace) -> Mapping[str, Any]:
    """Makes the InferenceService of a bundle, for `kubectl apply -f -`; needs no cluster and no bucket."""
    from handwriting import release
    from handwriting.inference_service import manifest

    version = options.model_uri.rstrip("/").rpartition("/")[2]
    return manifest(options.model_uri, release.name(version), config_of(ServiceConfig, options))
