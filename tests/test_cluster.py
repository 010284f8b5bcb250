"""Putting an InferenceService into a cluster in a way that respects others, whatever the cluster answers."""

import pytest
from fake_cluster import kubeconfig

from handwriting import api_server
from handwriting.cluster import Cluster
from handwriting.errors import DeployError
from handwriting.inference_service import ServiceConfig, manifest

URI = "s3://ocrpipeline/models/0123abcd"


def service(**changes) -> dict:
    return manifest(URI, "0123abcd", ServiceConfig(**changes))


def apply(wanted: dict) -> bool:
    with Cluster.connect() as cluster:
        return cluster.apply(wanted)


def methods(cluster) -> list[str]:
    """The methods of all calls so far."""
    return [call.split()[0] for call in cluster.calls]


def test_apply_creates_the_service(cluster):
    assert apply(service())
    assert methods(cluster) == ["GET", "POST"]
    assert cluster.service["spec"] == service()["spec"]


def test_apply_replaces_the_spec_and_keeps_what_others_put_on_the_object(cluster):
    apply(service(cpu="2", data_uri="s3://b/data"))
    metadata = cluster.service["metadata"]
    metadata["labels"]["team"] = "archive"
    metadata["annotations"] |= {"note": "by hand", "serving.kserve.io/deploymentMode": "changed"}
    metadata["finalizers"] = ["kserve.io/finalizer"]
    metadata["managedFields"] = [{"manager": "someone"}]
    cluster.service["status"] = {"url": "http://x"}
    apply(service())
    assert methods(cluster) == ["GET", "POST", "GET", "PUT"]
    found = cluster.service
    assert found["spec"] == service()["spec"]  # nothing stale
    assert found["metadata"]["labels"] == service()["metadata"]["labels"] | {"team": "archive"}
    assert found["metadata"]["annotations"] == {"note": "by hand", "serving.kserve.io/deploymentMode": "Standard"}
    assert found["metadata"]["finalizers"] == ["kserve.io/finalizer"]
    assert "managedFields" not in found["metadata"]


def test_apply_reads_again_when_others_were_faster(cluster):
    cluster.answers["POST"] = [(409, "already exists")]
    apply(service())
    assert methods(cluster) == ["GET", "POST", "GET", "POST"]
    cluster.answers["PUT"] = [(409, "modified"), (409, "modified")]
    cluster.calls.clear()
    apply(service(cpu="2"))
    assert methods(cluster) == ["GET", "PUT"] * 3


def test_apply_gives_up_when_others_never_stop(cluster):
    apply(service())
    cluster.answers["PUT"] = [(409, "modified")] * 100
    with pytest.raises(DeployError, match="changed by others 5 times"):
        apply(service(cpu="2"))


@pytest.mark.parametrize(("method", "status", "said"), [
    ("GET", 403, "the Roles of build/cluster.yaml in the namespace kubeflow-user"),
    ("POST", 403, "the Roles of build/cluster.yaml in the namespace kubeflow-user"), ("GET", 401, "renew them"),
    ("POST", 404, "the controller of such objects, is not there"), ("POST", 422, "the server's words")])
def test_a_refusal_says_what_to_do(cluster, method, status, said):
    cluster.answers[method] = [(status, "the server's words")]
    with pytest.raises(DeployError) as caught:
        apply(service())
    message = str(caught.value)
    assert said in message and "the server's words" in message
    assert "kubeflow-user" in message and "handwriting" in message
    assert "HTTP response headers" not in message


def test_a_mode_that_the_cluster_does_not_know_names_the_older_ones(cluster):
    cluster.answers["POST"] = [(400, 'admission webhook denied the request: invalid deploymentMode "Standard"')]
    with pytest.raises(DeployError, match="up to 0.15 calls the modes RawDeployment and Serverless"):
        apply(service())


@pytest.mark.parametrize("fault", [None, (503, "etcd leader changed"), (429, "too many requests")])
def test_an_api_server_that_is_away_for_a_while_is_waited_for(cluster, fault, caplog):
    cluster.answers["GET"] = [fault] * 3
    cluster.answers["POST"] = [fault]
    assert apply(service())
    assert cluster.service["spec"] == service()["spec"]
    assert "the cluster does not answer" in caplog.text


def test_a_write_whose_answer_got_lost_is_not_done_twice(cluster):
    real = cluster.answer

    def lost_once(method, path, body):
        result = real(method, path, body)
        if method == "POST":
            cluster.answer = real
            return None
        return result
    cluster.answer = lost_once
    apply(service())
    assert methods(cluster) == ["GET", "POST", "POST", "GET"]  # 409 at the second one, then it is so already


def test_an_api_server_that_stays_away_is_given_up(cluster, monkeypatch):
    monkeypatch.setattr(api_server, "AWAY_SECONDS", 0.1)
    cluster.answers["GET"] = [(503, "no endpoints available")] * 1000
    with pytest.raises(DeployError, match="503 no endpoints available"):
        apply(service())


def test_what_is_so_already_is_not_written_whatever_defaults_the_cluster_added(cluster):
    apply(service())
    cluster.service["spec"]["predictor"]["containers"][0]["imagePullPolicy"] = "IfNotPresent"
    cluster.service["spec"]["predictor"]["timeout"] = 60
    assert not apply(service())
    cluster.service["spec"]["predictor"]["canaryTrafficPercent"] = 10  # its absence means something
    assert apply(service())
    assert methods(cluster).count("PUT") == 1


def test_a_cluster_that_does_not_answer_is_a_deploy_error(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(api_server, "AWAY_SECONDS", 0.1)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "closed", "http://127.0.0.1:9")))
    with pytest.raises(DeployError, match="does not answer"):
        apply(service())


@pytest.mark.parametrize("content", [None, "", "no: kubeconfig", "{"])
def test_without_a_cluster_it_says_how_to_name_one(tmp_path, monkeypatch, content):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(DeployError, match="set KUBECONFIG"):
        apply(service())
