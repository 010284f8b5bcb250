"""The files for the cluster: valid objects, rights for what is called and no more, nothing secret."""

import json
import re
import shlex

import pytest
import yaml

from handwriting import katib, trainjob
from handwriting.cluster import Cluster
from handwriting.errors import ConfigError, DataError
from handwriting.experiment import TuneConfig, experiment
from handwriting.inference_service import ServiceConfig, manifest
from handwriting.layout import TOKEN, TOKEN_SECRET
from pipeline.cluster_manifests import (CLUSTER, EXPERIMENT, FILL_IN, RULES, SECRETS_FILE, SERVICE, ClusterConfig,
                                        write_cluster_files)
from pipeline.handwriting_pipeline import S3_SECRET, SECRETS
from pipeline.katib import train_step
from ops.train import train

LINE = re.compile(r"(GET|POST|PUT) /apis?/(?:(\S+)/)?v1(?:alpha1|beta1)?/namespaces/[^/]+/([^/]+)(/.+)?")


@pytest.fixture
def files(tmp_path):
    """Writes the files for some parameters, and returns their objects by file."""
    def write(**parameters) -> dict[str, list[dict]]:
        paths = write_cluster_files(tmp_path / "build", ClusterConfig(**parameters))
        return {path.name: list(yaml.safe_load_all(path.read_text("utf-8"))) for path in paths}
    return write


def place(found: dict) -> tuple[str, str, str]:
    return found["kind"], found["metadata"]["name"], found["metadata"]["namespace"]


def test_the_objects_are_those_a_cluster_needs(files):
    found = files()
    assert [place(item) for item in found[CLUSTER]] == [
        ("ServiceAccount", "handwriting", "kubeflow-user"), ("Role", "handwriting-deploy", "kubeflow-user"),
        ("RoleBinding", "handwriting-deploy", "kubeflow-user")]
    assert [place(item)[:2] for item in found[SECRETS_FILE]] == [("Secret", name) for name in SECRETS]
    assert [place(item) for item in found[SERVICE]] == [("InferenceService", "handwriting", "kubeflow-user")]
    assert [place(item) for item in found[EXPERIMENT]] == [("Experiment", "handwriting", "kubeflow-user")]
    versions = {item["kind"]: item["apiVersion"] for items in found.values() for item in items}
    assert versions == {"ServiceAccount": "v1", "Secret": "v1", "Role": "rbac.authorization.k8s.io/v1",
                        "RoleBinding": "rbac.authorization.k8s.io/v1", "InferenceService": "serving.kserve.io/v1beta1",
                        "Experiment": "kubeflow.org/v1beta1"}


def test_the_role_allows_what_the_steps_call_and_no_more(cluster):
    service = manifest("s3://b/models/v1", "v1", ServiceConfig())
    with Cluster.connect() as connected:
        connected.apply(service)
        connected.apply(manifest("s3://b/models/v2", "v2", ServiceConfig()))
        connected.deployment("kubeflow-user", "handwriting-predictor")
        connected.pods("kubeflow-user", "handwriting")
        with pytest.raises(DataError, match="none of 0 trials"):
            katib.search(connected, ended_experiment(cluster), poll=0.01)
        trainjob.run(connected, ended_train_job(cluster), poll=0.01)
    calls = set()
    for method, group, resource, name in (LINE.fullmatch(call).groups() for call in cluster.calls):
        verb = {"GET": "get" if name else "list", "POST": "create", "PUT": "update"}[method]
        calls.add((group or "", resource, verb))
    allowed = {(group, resource, verb) for rule in RULES for group in rule["apiGroups"]
               for resource in rule["resources"] for verb in rule["verbs"]}
    assert calls == allowed


def ended_experiment(cluster) -> dict:
    """An Experiment that has ended without a trial."""
    made = experiment("e", "kubeflow-user", train_step(), {"epochs": 1}, TuneConfig(), {})
    ended = {"conditions": [{"type": "Succeeded", "status": "True"}]}
    cluster.objects["/apis/kubeflow.org/v1beta1/namespaces/kubeflow-user/experiments/e"] = {**made, "status": ended}
    cluster.objects["/apis/kubeflow.org/v1beta1/namespaces/kubeflow-user/trials"] = {"items": []}
    cluster.script = lambda found: iter(())
    return made


def ended_train_job(cluster) -> dict:
    """A TrainJob that is complete at the first look."""
    ended = {"conditions": [{"type": "Complete", "status": "True"}]}
    path = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/kubeflow-user/trainjobs/t"
    cluster.script = lambda found: iter([found.objects[path].update(status=ended)])
    return trainjob.train_job("t", "kubeflow-user", train_step(), {}, trainjob.Nodes(2), {})


def test_the_binding_names_the_account_and_namespace_of_the_steps(files):
    found = files(namespace="serving", pipeline_namespace="team", service_account="default-editor")
    account, role, binding = found[CLUSTER]
    assert {item["metadata"]["namespace"] for item in found[CLUSTER]} == {"serving"}
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "default-editor", "namespace": "team"}]
    assert binding["roleRef"]["kind"] == "Role" and binding["roleRef"]["name"] == role["metadata"]["name"]
    assert sorted(place(item)[1:] for item in found[SECRETS_FILE]) == [
        ("handwriting-comet", "team"), ("handwriting-label-studio", "team"), (TOKEN_SECRET, "serving"),
        (TOKEN_SECRET, "team"), (S3_SECRET, "serving"), (S3_SECRET, "team")]


def test_the_account_of_the_service_names_the_secret_that_kserve_reads(files):
    found = files()
    [service], account = found[SERVICE], found[CLUSTER][0]
    assert service["spec"]["predictor"]["serviceAccountName"] == account["metadata"]["name"]
    assert account["secrets"] == [{"name": S3_SECRET}] == [{"name": ServiceConfig().secret}]
    s3 = found[SECRETS_FILE][0]
    kserve = {name.partition("/")[2]: value for name, value in s3["metadata"]["annotations"].items()}
    assert kserve == {"s3-endpoint": "minio-service.kubeflow:9000", "s3-usehttps": "0", "s3-region": "us-east-1"}
    assert s3["stringData"]["AWS_ENDPOINT_URL_S3"] == f"http://{kserve['s3-endpoint']}"


def test_secrets_have_the_keys_the_steps_read_and_no_values(files, tmp_path):
    for secret in files()[SECRETS_FILE]:
        assert tuple(secret["stringData"]) == SECRETS[secret["metadata"]["name"]]
        for key, value in secret["stringData"].items():
            assert value == ("" if key == TOKEN else FILL_IN) or key in ("AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION")
    assert FILL_IN not in (tmp_path / "build" / CLUSTER).read_text()  # can be applied again and again


def test_secrets_that_were_filled_in_stay_as_they_are(tmp_path):
    write_cluster_files(tmp_path, ClusterConfig())
    filled = (tmp_path / SECRETS_FILE).read_text("utf-8").replace(FILL_IN, "mine")
    (tmp_path / SECRETS_FILE).write_text(filled, "utf-8")
    write_cluster_files(tmp_path, ClusterConfig(namespace="team"))
    assert (tmp_path / SECRETS_FILE).read_text("utf-8") == filled
    assert "team" in (tmp_path / CLUSTER).read_text("utf-8")


def test_the_example_is_what_the_deploy_step_makes(files):
    config = ServiceConfig(namespace="team", data_uri="s3://ocrpipeline/data")
    assert files(namespace="team")[SERVICE] == [manifest("s3://ocrpipeline/models/VERSION", "VERSION-CODE", config)]


def test_the_search_runs_the_pipelines_own_train_step_where_the_steps_run(files):
    [found] = files(namespace="serving", pipeline_namespace="team")[EXPERIMENT]
    assert found["metadata"]["namespace"] == "team"
    pod = found["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]
    words = shlex.split(pod["containers"][0]["command"][-1].replace("$$", "$"))
    container = train.component_spec.implementation.container
    assert words[:len(container.command)] == container.command and words[-1] == "train"
    assert pod["serviceAccountName"] == "pipeline-runner" and pod["containers"][0]["image"] == container.image
    given = re.sub(r"\$\{trialParameters\.\w+}", "1", words[words.index("--executor_input") + 1])
    inputs, outputs = json.loads(given).values()
    assert set(inputs["parameterValues"]) <= set(train.component_spec.inputs)
    assert set(outputs["artifacts"]) == {"metrics", "curves", "comet"}


def test_each_object_says_in_a_comment_what_to_do(files, tmp_path):
    for name, found in files().items():
        documents = (tmp_path / "build" / name).read_text("utf-8").split("---\n")
        assert len(documents) == len(found) and all(document.startswith("# ") for document in documents)
        assert "&id" not in "".join(documents)  # YAML's references are hard to read and to edit


@pytest.mark.parametrize("parameters", [
    {"namespace": "A"}, {"namespace": ""}, {"pipeline_namespace": "a.b"}, {"service_account": "a b"}])
def test_names_that_a_cluster_would_refuse_are_refused(parameters):
    with pytest.raises(ConfigError):
        ClusterConfig(**parameters)
