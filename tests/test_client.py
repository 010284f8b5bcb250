"""kfp's own client, over HTTP, against a server that plays runs."""

import logging
import re

import kfp
import kubernetes
import pytest
from fake_cluster import kubeconfig
from fake_kfp import FakeKfp, add_node, add_step, end, serving, stop_in, workflow

from handwriting.errors import ConfigError, PipelineError
from pipeline.arguments import checked, parameters, typed
from pipeline.client import connect, start, wait
from pipeline.run_details import states

TOKEN = "secret-of-the-test"


pytestmark = pytest.mark.usefixtures("no_kfp")


@pytest.fixture
def server(kfp_server):
    return kfp_server


@pytest.fixture
def client(server):
    return connect(server.url)


def ended(client, **more):
    """Starts a run and waits for it without a pause."""
    return wait(client, start(client, {"epochs": 3}), pause=0, **more)


def test_a_run_starts_with_its_arguments_and_succeeds(client, server, caplog):
    with caplog.at_level(logging.INFO, "pipeline"):
        run = ended(client)
    assert run.state == "SUCCEEDED"
    [sent] = server.runs.values()
    assert sent["runtime_config"]["parameters"] == {"epochs": 3}
    assert sent["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == "handwriting"
    [experiment] = server.experiments.values()
    assert (experiment["display_name"], experiment["experiment_id"]) == ("handwriting", sent["experiment_id"])
    told = [record.message for record in caplog.records if re.match(r"\w+: [A-Z]+$", record.message)]
    assert told == [f"{step}: {state}" for step in ("preprocess", "train", "evaluate", "promote", "deploy")
                    for state in ("RUNNING", "SUCCEEDED")]


def test_two_runs_share_one_experiment(client, server):
    ended(client)
    ended(client)
    assert len(server.experiments) == 1 and len(server.runs) == 2


def test_a_failed_run_raises_with_the_step_and_the_last_error_of_its_log(client, server):
    server.script = stop_in("train", "FAILED")
    run_id = start(client, {})
    server.logs[f"pod-{run_id}-train"] = ("Traceback (most recent call last):\n  File \"x.py\", line 1\n"
                                          "handwriting.errors.DataError: datasets/1: no train lines; label some\n"
                                          "I1125 main.go:53] exit status 1\n")
    with pytest.raises(PipelineError, match="failed in step train: handwriting.errors.DataError: datasets/1: no train "
                                            f"lines; label some; .*{run_id}"):
        wait(client, run_id, pause=0)


def test_a_failed_run_whose_log_is_gone_names_the_step(client, server):
    server.script = stop_in("deploy", "FAILED")
    with pytest.raises(PipelineError, match="failed in step deploy: its pod gives no reason; see the log"):
        ended(client)


@pytest.mark.parametrize("where", ["step", "pod", "history"])
def test_the_servers_own_reason_comes_first(client, server, where):
    def script(run):
        workflow(run)
        step = add_step(run, "evaluate", "FAILED")
        node = run["run_details"]["task_details"][-1] if where == "pod" else step
        error = {"code": 13, "message": "OOMKilled (exit code 137)"}
        past = {"state_history": [{"state": "FAILED", "error": error}]}
        node.update(past if where == "history" else {"error": error})
        end(run, "FAILED")
        yield

    server.script = script
    with pytest.raises(PipelineError, match=r"failed in step evaluate: OOMKilled \(exit code 137\);"):
        ended(client)


def test_a_step_is_found_through_tasks_named_by_their_numbers(client, server):
    def script(run):
        workflow(run)
        inner = add_node(run, "executor", "FAILED", error={"message": "no such image"})
        add_node(run, "train", "FAILED", child_tasks=[{"task_id": inner["task_id"]}])
        end(run, "FAILED")
        yield

    server.script = script
    with pytest.raises(PipelineError, match="failed in step train: no such image"):
        ended(client)


def test_a_failed_driver_counts_as_its_step(client, server):
    def script(run):
        workflow(run)
        add_node(run, "train-driver", "FAILED", error={"message": "cannot resolve inputs"})
        end(run, "FAILED")
        yield

    server.script = script
    with pytest.raises(PipelineError, match="failed in step train: cannot resolve inputs"):
        ended(client)


def test_the_third_attempt_of_a_step_has_the_steps_name(client, server):
    def script(run):
        workflow(run)
        add_node(run, "train(2)", "FAILED", error={"message": "killed"})
        end(run, "FAILED")
        yield

    server.script = script
    with pytest.raises(PipelineError, match="failed in step train: killed"):
        ended(client)


def test_a_run_that_never_had_a_step_gives_its_own_error(client, server):
    def script(run):
        run["state"], run["error"] = "FAILED", {"code": 3, "message": "invalid spec"}
        yield

    server.script = script
    with pytest.raises(PipelineError, match="failed: invalid spec;"):
        ended(client)


def test_a_canceled_run_raises_with_the_step(client, server):
    server.script = stop_in("train", "CANCELED")
    with pytest.raises(PipelineError, match="was canceled in step train;"):
        ended(client)


def test_a_run_that_somebody_terminates_raises(client, server):
    run_id = start(client, {})
    client.terminate_run(run_id)
    with pytest.raises(PipelineError, match="was canceled;"):
        wait(client, run_id, pause=0)


def test_a_skipped_run_raises(client, server):
    server.script = stop_in("preprocess", "SKIPPED")
    with pytest.raises(PipelineError, match="was skipped in step preprocess"):
        ended(client)


def test_a_run_that_does_not_end_in_time_says_how_far_it_is(client, server):
    server.script = stop_in("train", "RUNNING")
    with pytest.raises(PipelineError, match="within 0 s, steps: preprocess SUCCEEDED, train RUNNING; it goes on: wait"):
        ended(client, timeout=0.2)


def test_waiting_outlives_a_gateway_that_restarts(client, server, caplog):
    run_id = start(client, {})
    server.faults[f"GET /runs/{run_id}"] = [(503, "upstream connect error")] * 3
    assert wait(client, run_id, pause=0).state == "SUCCEEDED"
    assert caplog.text.count("asking again") == 3


def test_waiting_gives_up_where_the_server_stays_broken(client, server):
    run_id = start(client, {})
    server.faults[f"GET /runs/{run_id}"] = [(503, "upstream connect error")] * 99
    with pytest.raises(PipelineError, match="503 .*upstream connect error"):
        wait(client, run_id, pause=0)


@pytest.mark.parametrize("status, said", [(401, "KFP_TOKEN"), (403, "namespace"), (404, "address")])
def test_waiting_gives_up_at_once_where_asking_again_cannot_help(client, server, status, said):
    run_id = start(client, {})
    server.faults[f"GET /runs/{run_id}"] = [(status, "no")] * 2
    with pytest.raises(PipelineError, match=said):
        wait(client, run_id, pause=0)
    assert len(server.faults[f"GET /runs/{run_id}"]) == 1


def test_steps_that_wait_for_their_driver_do_not_count_yet(client, server):
    def script(run):
        workflow(run)
        add_node(run, "condition-better-1", "RUNNING")
        add_node(run, "deploy-driver", "SUCCEEDED")
        yield

    server.script = script
    run = client.get_run(start(client, {}))
    assert states(run) == {}


@pytest.mark.parametrize("arguments, said", [
    ({"epoch": 3}, "no parameter 'epoch'; did you mean epochs?"),
    ({"nonsense": 3}, "It has label_studio_url, project, bucket"),
    ({"epochs": "3"}, "epochs is '3', a str; give a value of type int"),
    ({"epochs": True}, "a bool"), ({"sync": 1}, "type bool"), ({"learning_rate": "x"}, "type float")])
def test_arguments_that_do_not_fit_are_refused_before_anything_is_sent(client, server, arguments, said):
    asked = len(server.calls)
    with pytest.raises(ConfigError, match=re.escape(said)):
        start(client, arguments)
    assert len(server.calls) == asked


def test_a_whole_number_is_a_float_too():
    assert checked({"learning_rate": 1, "minutes": 2.5}) == {"learning_rate": 1, "minutes": 2.5}


def test_texts_become_what_the_parameters_are():
    given = typed(["epochs=3", "learning_rate=1e-3", "sync=false", "bucket=s3://b=c", "alphabet="])
    assert given == {"epochs": 3, "learning_rate": 1e-3, "sync": False, "bucket": "s3://b=c", "alphabet": ""}


@pytest.mark.parametrize("setting, said", [("epochs", "write name=value"), ("epochs=many", "type int"),
                                           ("sync=1", "true or false"), ("epoch=3", "did you mean epochs")])
def test_texts_that_do_not_fit_are_refused(setting, said):
    with pytest.raises(ConfigError, match=said):
        typed([setting])


def test_every_parameter_has_a_type_that_texts_can_give():
    assert {parameter.annotation for parameter in parameters().values()} == {str, int, float, bool}


def test_the_token_comes_from_its_variable_and_reaches_every_request(monkeypatch, caplog, capfd):
    with serving(FakeKfp(token=TOKEN)) as server:
        monkeypatch.setenv("KFP_TOKEN", TOKEN)
        with caplog.at_level(logging.INFO):
            assert ended(connect(server.url)).state == "SUCCEEDED"
        assert TOKEN not in caplog.text + "".join(capfd.readouterr())


def test_the_address_comes_from_kfps_variable(server, monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", f"{server.url}/")
    assert connect().address == server.url


def test_in_a_cluster_the_pods_token_is_read_anew_for_every_request(monkeypatch, tmp_path):
    """Also where KFP_TOKEN is set: kfp would then ask http://localhost."""
    path = tmp_path / "token"
    path.write_text("first")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(path))
    monkeypatch.setenv("KFP_TOKEN", TOKEN)
    monkeypatch.setattr(kubernetes.config, "load_incluster_config", lambda: None)
    with serving(FakeKfp(token="first")) as server:
        monkeypatch.setattr(kfp.Client, "_IN_CLUSTER_DNS_NAME", f"127.0.0.1:{server.server_port}")
        client = connect(namespace="team")
        path.write_text("second")
        server.token = "second"
        assert ended(client).state == "SUCCEEDED"


def test_outside_a_cluster_kubectls_context_leads_there(monkeypatch, tmp_path):
    with serving(FakeKfp(token="t")) as server:
        kubeconfig(tmp_path / "kubeconfig", server.url)
        assert ended(connect()).state == "SUCCEEDED"


def test_where_there_is_nothing_it_asks_for_an_address():
    with pytest.raises(PipelineError, match="http://localhost .* address"):
        connect()


def test_a_wrong_token_is_refused_in_words_that_do_not_hold_it():
    with serving(FakeKfp(token=TOKEN)) as server, pytest.raises(PipelineError) as caught:
        connect(server.url, token="wrong-token")
    assert "401" in str(caught.value) and "KFP_TOKEN" in str(caught.value) and server.url in str(caught.value)
    assert "wrong-token" not in str(caught.value) and len(server.calls) == 1


def test_a_server_that_is_not_there_is_named_with_what_to_do():
    with pytest.raises(PipelineError, match=r"http://127.0.0.1:9 cannot be reached .*port-forward"):
        connect("http://127.0.0.1:9")


def test_a_page_to_log_in_is_no_server(server):
    server.health_page = "<html>Log in</html>"
    with pytest.raises(PipelineError, match="answers with a page.*KFP_TOKEN"):
        connect(server.url)


def test_the_namespace_goes_into_the_experiment_and_not_into_the_address(server):
    server.multi_user = True
    client = connect(server.url, "team")
    start(client, {})
    assert client.address == server.url
    assert [experiment["namespace"] for experiment in server.experiments.values()] == ["team"]


def test_a_refusal_gives_the_servers_words(client, server):
    server.faults["POST /runs"] = [(400, "InvalidInputError: missing parameter\n  at run_server.go:17")]
    with pytest.raises(PipelineError, match="refused a new run: 400 .*InvalidInputError: missing parameter; look"):
        start(client, {})


def test_a_connection_that_breaks_off_is_told(client, server):
    server.faults["POST /runs"] = [None] * 9
    with pytest.raises(PipelineError, match="cannot be reached for a new run"):
        start(client, {})
