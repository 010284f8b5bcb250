"""The InferenceService: a valid manifest, and a command that runs anywhere."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import jsonschema
import pytest

from handwriting.errors import ConfigError
from handwriting.inference_service import MODES, ServiceConfig, command, manifest
from handwriting.wheels import Target

SCHEMA = Path(__file__).resolve().parent.parent.parent / "shared" / "schemas" / "inferenceservice.v1beta1.json"
URI = "s3://ocrpipeline/models/0123abcd"


def service(**changes) -> dict:
    return manifest(URI, "0123abcd", ServiceConfig(**changes))


def container(**changes) -> dict:
    return service(**changes)["spec"]["predictor"]["containers"][0]


def environment(**changes) -> dict:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container(**changes)["env"]}


def strict(schema):
    """The schema with unknown fields forbidden: the API server would drop them without a word."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema and "additionalProperties" not in schema:
        closed["additionalProperties"] = False
    return closed


@pytest.fixture(scope="module")
def validator():
    if not SCHEMA.is_file():
        pytest.skip(f"{SCHEMA} is not here: no schema to check against")
    return jsonschema.Draft202012Validator(strict(json.loads(SCHEMA.read_text("utf-8"))))


@pytest.mark.parametrize("changes", [
    *({"mode": mode} for mode in MODES), {"data_uri": "s3://ocrpipeline/data"}, {"install": False},
    {"mode": "Knative", "data_uri": "s3://ocrpipeline/data", "keep_share": 0.1},
    {"mode": "Knative", "min_replicas": 0, "canary_percent": 10},
    {"mode": "Serverless", "min_replicas": 0, "canary_percent": 0}])
def test_the_manifest_is_valid_and_has_no_unknown_field(validator, changes):
    validator.validate(service(**changes))


def test_a_misspelt_field_would_be_found(validator):
    wrong = service()
    wrong["spec"]["predictor"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(wrong)


def test_the_container_says_what_kserve_needs():
    found = container(data_uri="s3://ocrpipeline/data", cpu="2", memory="4Gi")
    assert found["name"] == "kserve-container"
    assert found["resources"]["requests"] == found["resources"]["limits"] == {"cpu": "2", "memory": "4Gi"}
    assert found["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": 8080}
    assert found["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": 8080}
    startup = found["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 180  # the wheels have to be installed
    assert startup["periodSeconds"] <= 2  # a request may be waiting for a service scaled to zero


def test_the_environment_names_model_data_and_optional_secrets():
    found = environment(data_uri="s3://ocrpipeline/data", secret="keys")
    assert found["STORAGE_URI"] == URI + "/"
    assert (found["MODEL_VERSION"], found["DATA_URI"], found["HOME"]) == ("0123abcd", "s3://ocrpipeline/data", "/tmp")
    assert found["HANDWRITING_TOKEN"] == {"secretKeyRef": {
        "name": "handwriting-predictor-token", "key": "HANDWRITING_TOKEN", "optional": True}}
    assert environment(name="ocr")["MODEL_NAME"] == "ocr"
    assert found["LANGUAGE_MODEL"] == "yes" and "LANGUAGE_MODEL" not in environment(language_model=False)
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3"):
        assert found[key] == {"secretKeyRef": {"name": "keys", "key": key, "optional": True}}
    assert not {"DATA_URI", "SPOOL", "KEEP_SHARE"} & set(environment(keep_share=0.5))
    assert "KEEP_SHARE" not in found
    assert environment(data_uri="s3://ocrpipeline/data", keep_share=0.25)["KEEP_SHARE"] == "0.25"
    assert "PORT" not in environment(mode="Knative")  # Knative refuses it


@pytest.mark.parametrize("mode", ["Standard", "Knative"])
def test_pictures_wait_in_a_volume_that_outlives_the_container(mode):
    found = service(mode=mode, data_uri="s3://ocrpipeline/data")["spec"]["predictor"]
    [volume], [mount] = found["volumes"], found["containers"][0]["volumeMounts"]
    assert volume == {"name": mount["name"], "emptyDir": {}}
    assert environment(mode=mode, data_uri="s3://ocrpipeline/data")["SPOOL"] == mount["mountPath"]
    assert mount["mountPath"] not in ("/", "/dev", "/dev/log", "/tmp", "/var", "/var/log")  # Knative's own
    nothing = service(mode=mode)["spec"]["predictor"]
    assert "volumes" not in nothing and "volumeMounts" not in nothing["containers"][0]


def test_a_model_uri_that_ends_with_a_slash_gets_no_second_one():
    env = manifest(URI + "/", "v1", ServiceConfig())["spec"]["predictor"]["containers"][0]["env"]
    assert env[0] == {"name": "STORAGE_URI", "value": URI + "/"}


def test_two_versions_differ_in_uri_and_version_so_that_pods_are_replaced():
    other = manifest("s3://ocrpipeline/models/ffff", "ffff", ServiceConfig())
    assert other["spec"]["predictor"]["containers"][0]["env"][:2] == [
        {"name": "STORAGE_URI", "value": "s3://ocrpipeline/models/ffff/"}, {"name": "MODEL_VERSION", "value": "ffff"}]


def test_mode_replicas_canary_and_annotations():
    standard, knative = service(), service(mode="Knative", min_replicas=0, canary_percent=10)
    assert standard["metadata"]["annotations"] == {"serving.kserve.io/deploymentMode": "Standard"}
    assert knative["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Knative"
    assert knative["spec"]["predictor"]["minReplicas"] == 0
    assert knative["spec"]["predictor"]["canaryTrafficPercent"] == 10
    assert "canaryTrafficPercent" not in standard["spec"]["predictor"]
    assert standard["spec"]["predictor"]["terminationGracePeriodSeconds"] > 30  # what the server takes to drain
    assert "terminationGracePeriodSeconds" not in knative["spec"]["predictor"]  # Knative refuses it
    assert standard["spec"]["predictor"]["nodeSelector"] == {"kubernetes.io/arch": "amd64"}  # what the wheels are for
    assert "nodeSelector" not in knative["spec"]["predictor"]  # Knative refuses it, too
    assert "nodeSelector" not in service(install=False)["spec"]["predictor"]
    assert standard["spec"]["predictor"]["annotations"]["prometheus.io/port"] == "8080"
    assert standard["spec"]["predictor"]["serviceAccountName"] == "handwriting"


@pytest.mark.parametrize(("older", "newer"), [("RawDeployment", "Standard"), ("Serverless", "Knative")])
def test_the_older_names_of_the_modes_mean_the_same(older, newer):
    one, two = service(mode=older), service(mode=newer)
    assert one["metadata"]["annotations"].pop("serving.kserve.io/deploymentMode") == older
    assert two["metadata"]["annotations"].pop("serving.kserve.io/deploymentMode") == newer
    assert one == two


def test_the_end_of_a_canary_changes_its_share_alone():
    """KServe copies annotations into the revision's template: another one would start another revision."""
    canary, promoted = service(mode="Knative", canary_percent=10), service(mode="Knative")
    assert canary["metadata"]["annotations"]["serving.kserve.io/enable-tag-routing"] == "true"
    assert canary["spec"]["predictor"].pop("canaryTrafficPercent") == 10
    assert canary == promoted
    assert "serving.kserve.io/enable-tag-routing" not in service()["metadata"]["annotations"]


@pytest.mark.parametrize("changes", [
    {"name": "Handwriting"}, {"name": "1st"}, {"name": "-a"}, {"name": "a_b"}, {"name": "a" * 47}, {"name": ""},
    {"namespace": "a.b"}, {"namespace": ""}, {"service_account": "a b"}, {"secret": "A"}, {"image": ""},
    {"image": "python 3"}, {"mode": "ModelMesh"}, {"min_replicas": 0}, {"min_replicas": 4}, {"max_replicas": 0},
    {"mode": "Knative", "min_replicas": 0, "max_replicas": 0}, {"canary_percent": 10},
    {"mode": "Knative", "canary_percent": 101}, {"cpu": "many"}, {"memory": "2 Gi"}, {"data_uri": "/tmp/data"},
    {"keep_share": -0.1}, {"keep_share": 1.5}, {"keep_share": float("nan")},
    {"data_uri": "s3://"}, {"name": "a\n"}, {"python": "3.10"}, {"python": "3"}, {"machine": "arm64"},
    {"mode": "RawDeployment", "min_replicas": 0}, {"mode": "RawDeployment", "canary_percent": 10}])
def test_a_config_the_cluster_would_refuse_is_refused_here(changes):
    with pytest.raises(ConfigError):
        ServiceConfig(**changes)


@pytest.mark.parametrize(("uri", "version"), [("", "v"), ("/tmp/model", "v"), (URI, ""), (URI, "a b"), (URI, "a" * 64)])
def test_a_model_without_a_usable_uri_or_version_is_refused(uri, version):
    with pytest.raises(ConfigError):
        manifest(uri, version, ServiceConfig())


@pytest.mark.parametrize("install", [True, False])
def test_the_command_holds_nothing_that_kubernetes_would_expand(install):
    shell, option, line = container(install=install)["command"]
    assert (shell, option) == ("sh", "-c")
    assert "$(" not in line and "$$" not in line and "\n" not in line


def add_wheel(bundle: Path, text: str = "NAME = 'tiny'") -> Path:
    """Adds a package without code to build, and a lock for it, where the command looks for them on this machine."""
    lock, path = bundle / Target.here().lock("c0de"), bundle / Target.here().folder / "tiny-1.0-py3-none-any.whl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny.py", text)
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    lock.write_text(f"tiny==1.0 --hash=sha256:{digest}\n")
    return path


@pytest.fixture
def bundle(tmp_path):
    """A bundle whose server prints what it got, in a folder full of traps."""
    if not importlib.util.find_spec("pip"):
        pytest.skip("this Python has no pip, which the command needs")
    code, here = tmp_path / "bundle" / "code" / "c0de" / "handwriting", tmp_path / "here" / "handwriting"
    for folder in (code, here):
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
    (code / "serving.py").write_text("import sys, tiny; print('serving', tiny.NAME, *sys.argv[1:])")
    (here / "serving.py").write_text("print('the wrong code')")
    return tmp_path / "bundle"


@pytest.fixture
def run_command(bundle, tmp_path):
    """Runs the container's command with an index that nobody answers at."""
    def run(install: bool = True, **extra: str) -> subprocess.CompletedProcess:
        env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path),
               "STORAGE_URI": str(bundle), "MODEL_VERSION": "0123abcd-c0de",
               "SITE_ROOT": str(tmp_path), "PIP_INDEX_URL": "http://127.0.0.1:9", **extra}
        return subprocess.run(command(install), env=env, cwd=tmp_path / "here", capture_output=True, text=True)
    return run


def test_the_command_installs_once_without_an_index_and_serves_the_bundles_own_code(run_command, bundle):
    path = add_wheel(bundle)
    first = run_command()
    assert first.stdout == f"serving tiny --model {bundle} --port 8080\n", first.stderr
    path.unlink()  # a second installation would fail
    again = run_command(PORT="18080")
    assert again.stdout == f"serving tiny --model {bundle} --port 18080\n", again.stderr


def test_the_command_fails_when_pip_does_and_starts_afresh_the_next_time(run_command, bundle, tmp_path):
    path = add_wheel(bundle)
    path.rename(tmp_path / "away")
    failed = run_command()
    assert failed.returncode != 0 and "serving" not in failed.stdout
    (tmp_path / "away").rename(path)
    assert run_command().stdout.startswith("serving tiny")


def test_a_wheel_that_was_changed_is_not_installed(run_command, bundle):
    add_wheel(bundle)
    lock = bundle / Target.here().lock("c0de")
    locked = lock.read_text()
    add_wheel(bundle, "NAME = 'changed'")
    lock.write_text(locked)
    failed = run_command()
    assert failed.returncode != 0 and "serving" not in failed.stdout
    assert "DO NOT MATCH" in failed.stderr


def test_other_pins_are_installed_beside_the_first(run_command, bundle, tmp_path):
    add_wheel(bundle)
    run_command()
    add_wheel(bundle, "NAME = 'newer'")
    assert run_command().stdout.startswith("serving newer")
    assert len(list(tmp_path.glob("handwriting-site-*"))) == 2


def test_without_wheels_for_this_python_the_command_says_what_to_do(run_command, bundle):
    failed = run_command()
    assert failed.returncode == 1
    assert f"no wheels for {Target.here().name}: deploy it for the Python and machine" in failed.stderr


def test_an_image_that_has_the_packages_needs_neither_pip_nor_wheels(run_command, tmp_path, bundle):
    (bundle / "code" / "c0de" / "tiny.py").write_text("NAME = 'from the image'")
    done = run_command(install=False)
    assert done.stdout == f"serving from the image --model {bundle} --port 8080\n", done.stderr
    assert not list(tmp_path.glob("handwriting-site-*"))
