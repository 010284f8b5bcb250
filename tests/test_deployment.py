"""Stories of deployments on a simulated cluster: a new model is live only when it answers, a bad one never is."""

import threading

import pytest
from fake_cluster import URL, deployment, fail_load, knative, set_status, standard

from handwriting import release, sources
from handwriting.bundle import CONFIG, CURRENT
from handwriting.cluster import Cluster
from handwriting.deployment import Operation, deploy
from handwriting.errors import ConfigError, DeployError
from handwriting.image import ImageConfig
from handwriting.inference_service import ServiceConfig, manifest
from handwriting.rollout import Superseded, WaitConfig
from handwriting.store import open_store, read_json, write_json

WAIT = WaitConfig(timeout=20, poll=0.01, stale=0.1)
SHORT = WaitConfig(timeout=0.3, poll=0.01, stale=0.1)
LATEST_URL = "http://latest-{}.example"


def service(version, **changes) -> dict:
    return manifest(f"s3://ocrpipeline/models/{version}", version, ServiceConfig(**changes))


def canary(version) -> dict:
    return service(version, mode="Knative", min_replicas=0, canary_percent=10)


class Asked:
    """The smoke test's part: remembers whom it asked, and refuses some versions."""

    def __init__(self, *refused):
        self.refused, self.calls = refused, []

    def __call__(self, urls, version):
        self.calls.append((urls[0], version))
        if version in self.refused:
            raise DeployError(f"version {version} reads nothing")
        return urls[-1]


def put(wanted, ask=None, wait=WAIT) -> str:
    with Cluster.connect() as cluster:
        return Operation(cluster, wait, ask or Asked()).put(wanted)


def puts(cluster) -> int:
    return sum(call.startswith("PUT") for call in cluster.calls)


# --- Standard ---

def test_a_first_version_is_created_waited_for_and_asked(cluster, caplog):
    caplog.set_level("INFO")
    ask = Asked()
    assert put(service("v1"), ask) == URL
    assert cluster.served == ["v1"] and ask.calls == [(URL, "v1")]
    assert "there is no Deployment yet" in caplog.text and "1 pods wanted: 1 of version v1" in caplog.text


def test_the_old_versions_ready_is_not_taken_for_the_new_ones(cluster):
    put(service("v1"))
    served_when_asked = []

    def ask(urls, version):
        served_when_asked.append(list(cluster.served))
        return urls[0]
    put(service("v2"), ask)
    assert served_when_asked == [["v1", "v2"]]


def test_a_ready_that_comes_before_the_old_pods_are_gone_is_not_enough(cluster):
    put(service("v1"))

    def early(found):
        deployment(found, 1, 1, 2)
        set_status(found.service, True, "UpToDate")
        for _ in range(5):
            yield
        deployment(found, 1, 1, 1)
        found.served.append(found.version)
        yield
    cluster.script = early
    put(service("v2"))
    assert cluster.served == ["v1", "v2"]


def test_the_same_version_twice_changes_nothing(cluster):
    put(service("v1"))
    before = dict(cluster.service)
    ask = Asked()
    put(service("v1"), ask)
    assert puts(cluster) == 0 and cluster.service == before
    assert ask.calls == [(URL, "v1")]  # but it is made sure that it serves


def failing_load(found):
    if found.version != "v2":
        yield from standard(found)
        return
    yield
    deployment(found, 1, 0, 2)
    fail_load(found.service, "config.json is missing")
    yield


def test_a_failed_load_ends_at_once_with_kserves_reason_and_the_old_version_is_back(cluster):
    put(service("v1"))
    cluster.script = failing_load
    with pytest.raises(DeployError, match="version v2 failed: BlockedByFailedLoad ModelLoadFailed, config.json is "
                                          "missing, exit code 4; rolled back: version v1 serves again"):
        put(service("v2"))
    assert cluster.version == "v1" and cluster.served == ["v1", "v1"]


def test_a_first_version_that_fails_is_left_to_look_at(cluster):
    cluster.script = failing_load
    with pytest.raises(DeployError, match="no version served before"):
        put(service("v2"))
    assert cluster.version == "v2"


def test_a_failure_of_the_version_before_is_not_the_new_ones(cluster):
    cluster.script = failing_load
    with pytest.raises(DeployError):
        put(service("v2"))

    def lagging(found):
        deployment(found, 0, 0, 1)  # modelStatus still tells v2's failure
        for _ in range(3):
            yield
        yield from standard(found)
    cluster.script = lagging
    put(service("v3"))
    assert cluster.served == ["v3"]


def test_the_same_failure_again_counts_after_a_while(cluster):
    cluster.script = failing_load
    with pytest.raises(DeployError):
        put(service("v2"))

    def again(found):
        deployment(found, 1, 0, 1)
        while True:
            yield
    cluster.script = again
    with pytest.raises(DeployError, match="version v3 failed: BlockedByFailedLoad .*config.json is missing"):
        put(service("v3"))


@pytest.mark.parametrize(("state", "said"), [
    ({"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "python:none"'}},
     'container kserve-container: ImagePullBackOff Back-off pulling image "python:none"'),
    ({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
     r"CrashLoopBackOff back-off 10s \(last end: OOMKilled, exit code 137\)"),
])
def test_a_pod_that_cannot_start_ends_at_once_with_its_reason(cluster, state, said):
    put(service("v1"))

    def broken(found):
        if found.version == "v1":
            found.pods = []
            yield from standard(found)
            return
        deployment(found, 1, 1, 2)
        found.pods = [{"metadata": {"name": "handwriting-predictor-1"}, "spec": found.service["spec"]["predictor"],
                       "status": {"containerStatuses": [
                           {"name": "kserve-container", "state": state,
                            "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
                            if "Crash" in str(state) else {}}]}}]
        while True:
            yield
    cluster.script = broken
    with pytest.raises(DeployError, match=f"version v2 does not start: pod handwriting-predictor-1, .*{said}.*"
                                          "rolled back: version v1 serves again"):
        put(service("v2"))


def test_pods_of_the_old_version_that_crash_are_not_the_new_ones_fault(cluster):
    put(service("v1"))
    cluster.pods = [{"metadata": {"name": "old"}, "spec": service("v1")["spec"]["predictor"], "status": {
        "containerStatuses": [{"name": "kserve-container", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}}]
    put(service("v2"))
    assert cluster.served == ["v1", "v2"]


def stuck(found):
    if found.version == "v1":
        yield from standard(found)
        return
    deployment(found, 1, 0, 2)
    set_status(found.service, False, "InProgress")
    while True:
        yield


def test_time_over_says_what_was_seen_last_and_rolls_back(cluster):
    put(service("v1"))
    cluster.script = stuck
    with pytest.raises(DeployError, match="v2 does not serve after 0 s: 1 pods wanted: 1 of version v2, 0 available, 2 "
                                          r"in all \(Ready: PredictorNotReady still starting\).*v1 serves again"):
        put(service("v2"), wait=SHORT)
    assert cluster.version == "v1"


def test_a_rollback_that_fails_too_is_told(cluster):
    put(service("v1"))

    def dead(found):
        deployment(found, 0, 0, 1)
        set_status(found.service, False, "InProgress")
        while True:
            yield
    cluster.script = dead
    with pytest.raises(DeployError, match="rolling back to version v1 failed as well: .*v1 does not serve"):
        put(service("v2"), wait=SHORT)


def test_a_version_that_is_ready_but_does_not_answer_is_rolled_back(cluster):
    put(service("v1"))
    with pytest.raises(DeployError, match="version v2 reads nothing; rolled back: version v1 serves again"):
        put(service("v2"), Asked("v2"))
    assert cluster.version == "v1" and cluster.served == ["v1", "v2", "v1"]


def test_a_rollback_keeps_what_others_put_on_the_service(cluster):
    put(service("v1"))
    cluster.service["metadata"]["labels"]["team"] = "archive"
    with pytest.raises(DeployError):
        put(service("v2"), Asked("v2"))
    assert cluster.service["metadata"]["labels"]["team"] == "archive"
    assert cluster.service["metadata"]["labels"]["app.kubernetes.io/version"] == "v1"


def test_others_who_deploy_meanwhile_win_and_are_not_rolled_back(cluster):
    put(service("v1"))

    def overtaken(found):
        yield
        found.edit("v9")
        while True:
            yield
    cluster.script = overtaken
    with pytest.raises(Superseded, match="given version v9 by others while v2"):
        put(service("v2"))
    assert cluster.version == "v9"


def test_others_who_deploy_while_we_fail_are_not_rolled_back(cluster):
    put(service("v1"))

    def ask(urls, version):
        cluster.edit("v9")
        raise DeployError("no answer")
    with pytest.raises(DeployError, match="others have changed it meanwhile"):
        put(service("v2"), ask)
    assert cluster.version == "v9"


def test_two_deployments_at_once_end_with_one_of_them_whole(cluster):
    put(service("v1"))
    outcomes = {}

    def run(version):
        try:
            put(service(version))
            outcomes[version] = "serves"
        except Superseded:
            outcomes[version] = "superseded"
    threads = [threading.Thread(target=run, args=(version,)) for version in ("v2", "v3")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes[cluster.version] == "serves" and cluster.served[-1] == cluster.version
    assert set(outcomes.values()) <= {"serves", "superseded"}


def test_a_cluster_that_goes_away_during_the_wait_and_comes_back(cluster):
    put(service("v1"))

    def leaving(found):
        yield
        found.answers["GET"] = [None, (503, "starting"), None]
        yield from standard(found)
    cluster.script = leaving
    put(service("v2"))
    assert cluster.served == ["v1", "v2"]


def test_a_missing_right_on_what_is_below_names_the_role(cluster):
    cluster.answers["GET /apis/apps/v1/namespaces/kubeflow-user/deployments/handwriting-predictor"] = [
        (403, "deployments.apps is forbidden")] * 100
    with pytest.raises(DeployError, match="403 deployments.apps is forbidden; .*Roles of build/cluster.yaml"):
        put(service("v1"))


# --- Knative ---

def test_a_canary_answers_at_its_own_address_before_it_gets_all_requests(cluster):
    cluster.script = knative
    ask = Asked()
    put(canary("v1"), ask)
    assert puts(cluster) == 0  # the first version has nothing to be a canary to
    put(canary("v2"), ask)
    assert puts(cluster) == 2
    assert ask.calls == [(LATEST_URL.format(version), version) for version in ("v1", "v2", "v2")]
    assert cluster.served == ["v1", "v2"]
    assert "canaryTrafficPercent" not in cluster.service["spec"]["predictor"]


def test_a_canary_that_does_not_answer_never_gets_all_requests(cluster):
    cluster.script = knative
    put(canary("v1"))
    with pytest.raises(DeployError, match="version v2 reads nothing; rolled back: version v1 serves again"):
        put(canary("v2"), Asked("v2"))
    assert set(cluster.served) == {"v1"} and cluster.version == "v1"


def test_a_revision_that_never_gets_ready_is_rolled_back(cluster):
    cluster.script = knative
    put(canary("v1"))

    def unready(found):
        if found.version == "v1":
            yield from knative(found)
            return
        state = found.service["status"]["components"]["predictor"]
        state["latestCreatedRevision"] = "handwriting-predictor-00002"
        state["_versions"]["handwriting-predictor-00002"] = "v2"
        fail_load(found.service, "exit")
        while True:
            yield
    cluster.script = unready
    with pytest.raises(DeployError, match="version v2 failed: BlockedByFailedLoad.*version v1 serves again"):
        put(canary("v2"))
    assert set(cluster.served) == {"v1"}


def test_without_a_canary_a_new_revision_gets_all_requests_when_it_is_ready(cluster):
    cluster.script = knative
    for version in ("v1", "v2"):
        put(service(version, mode="Knative"))
    assert cluster.served == ["v1", "v2"]


# --- modes ---

def test_a_service_keeps_the_older_name_of_its_mode(cluster):
    put(service("v1"))
    cluster.service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] = "RawDeployment"
    put(service("v2"))
    assert cluster.service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "RawDeployment"


def test_a_service_of_the_other_mode_is_refused_before_anything_is_written(cluster):
    put(service("v1"))
    with pytest.raises(DeployError, match="made in Standard mode and cannot change it"):
        put(canary("v2"))
    assert puts(cluster) == 0


# --- the pointer ---

@pytest.fixture
def models(bucket):
    """Two bundles, as far as deploying looks at them."""
    store = open_store(f"s3://{bucket}/models")
    for version in ("v1", "v2"):
        write_json(store, f"{version}/{CONFIG}", {"version": version, "image": {"height": ImageConfig().height},
                                                  "alphabet": "ab", "model": {}, "train": {}, "dataset": "d"})
    return store


def test_the_pointer_is_written_last_and_only_when_the_version_serves(cluster, models):
    def ask(urls, version):
        assert version != release.name("v1") or not models.exists(CURRENT)
        if version == release.name("v2"):
            raise DeployError("no answer")
        return urls[0]

    config = ServiceConfig(install=False)
    done = deploy(f"{models.root}/v1", config, wait=WAIT, ask=ask)
    assert done == (read_json(models, CURRENT)["manifest"], "v1", URL)
    with pytest.raises(DeployError, match="no answer; rolled back"):
        deploy(f"{models.root}/v2", config, wait=WAIT, ask=ask)
    assert read_json(models, CURRENT)["id"] == "v1" and cluster.version == release.name("v1")


def test_a_mended_predictor_is_rolled_out_with_the_same_model(cluster, models, monkeypatch):
    config = ServiceConfig(install=False)
    deploy(f"{models.root}/v1", config, wait=WAIT, ask=Asked())
    first = release.name("v1")
    monkeypatch.setattr(sources, "digest", lambda root: "mended")
    deploy(f"{models.root}/v1", config, wait=WAIT, ask=Asked())
    assert cluster.served == [first, release.name("v1")] and first != release.name("v1")
    assert all(models.exists(f"v1/code/{release.code_of(found)}/requirements.txt") for found in cluster.served)


@pytest.mark.parametrize("wrong", [{"timeout": 0}, {"poll": -1}, {"stale": float("nan")}])
def test_waits_without_a_deadline_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        WaitConfig(**wrong)
