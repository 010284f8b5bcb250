"""Versions of a pipeline on a server, named by git revision."""

import hashlib
import logging
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

from kfp.dsl.graph_component import GraphComponent
from kfp_server_api.models import V2beta1Pipeline

from handwriting.errors import ConfigError
from pipeline.client import Client
from pipeline.compiling import write_spec
from pipeline.handwriting_pipeline import handwriting_pipeline

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent


class Version(NamedTuple):
    """A version of a pipeline on the server; `new` says whether it was uploaded just now."""

    pipeline_id: str
    version_id: str
    name: str
    new: bool


def upload(client: Client, folder: Path = ROOT, pipeline: GraphComponent = handwriting_pipeline) -> Version:
    """Uploads a pipeline as it is in this checkout, unless this revision is there already.

    Args:
        client: From `pipeline.client.connect`.
        folder: The checkout.
        pipeline: To upload.

    Raises:
        ConfigError: The folder is no git checkout.
        PipelineError: The server refuses the upload.
    """
    with tempfile.TemporaryDirectory(prefix="upload-") as scratch:
        spec = Path(scratch) / "pipeline.yaml"
        write_spec(spec, pipeline)
        name = revision(folder, spec.read_bytes())
        ident = _pipeline_id(client, pipeline)
        for version in client.pages("versions", partial(client.list_pipeline_versions, ident), "pipeline_versions"):
            if version.display_name == name:
                log.info("version %s is there already", name)
                return Version(ident, version.pipeline_version_id, name, new=False)
        made = client.ask(f"version {name}", lambda: client.upload_pipeline_version(
            str(spec), name, pipeline_id=ident))
    return Version(ident, made.pipeline_version_id, name, new=True)


def revision(folder: Path, spec: bytes) -> str:
    """Returns the name of what is in a checkout: its short hash, and for a changed tree `-dirty-` and the spec's hash.

    Raises:
        ConfigError: The folder is no git checkout.
    """
    name = _git(folder, "rev-parse", "--short=10", "HEAD")
    changed = _git(folder, "status", "--porcelain")
    return f"{name}-dirty-{hashlib.sha256(spec).hexdigest()[:8]}" if changed else name


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()
    except (subprocess.CalledProcessError, OSError) as error:
        said = str(getattr(error, "stderr", "") or error).strip()
        raise ConfigError(f"{folder} has no git revision to name the version by ({said}); run this in a clone of the "
                          "repository, or upload build/pipeline.yaml by hand") from error


def _pipeline_id(client: Client, wanted: GraphComponent) -> str:
    """Finds a pipeline by its name, and makes it the first time, without a version: that gets its own name."""
    name, namespace = wanted.name, client.get_user_namespace() or None
    for found in client.pages("pipelines", partial(client.list_pipelines, namespace=namespace), "pipelines"):
        if found.display_name == name:
            return str(found.pipeline_id)
    pipeline = V2beta1Pipeline(name=name, display_name=name, namespace=namespace,
                               description=wanted.description)
    made = client.ask(f"the pipeline {name}", lambda: client.pipelines.pipeline_service_create_pipeline(pipeline))
    log.info("made the pipeline %s", name)
    return str(made.pipeline_id)
