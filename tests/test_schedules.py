"""There is one recurring run, never two that are enabled, and none is lost on the way to another."""

import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from fake_kfp import API

from handwriting.errors import ConfigError, PipelineError
from pipeline.client import connect
from pipeline.drift_pipeline import drift_pipeline
from pipeline.schedules import listed, schedule, unschedule
from pipeline.triggers import Trigger, every
from pipeline.versions import Version

MONDAYS = Trigger(cron="0 0 3 * * 1")
ARGUMENTS = {"bucket": "s3://b", "epochs": 3}


@pytest.fixture
def client(kfp_server):
    return connect(kfp_server.url)


@pytest.fixture
def version(kfp_server):
    return new_version(kfp_server, "abc1234567")


def new_version(server, name):
    _, pipeline = server.create("pipelines", {"display_name": "handwriting"})
    _, made = server.upload_version({"pipelineid": pipeline["pipeline_id"], "name": name}, {})
    return Version(pipeline["pipeline_id"], made["pipeline_version_id"], name, True)


def enabled(server):
    """The triggers of all recurring runs that are enabled."""
    return [run["trigger"] for run in server.recurring.values() if run["status"] == "ENABLED"]


def test_the_recurring_run_has_what_it_should(client, kfp_server, version):
    found = schedule(client, MONDAYS, ARGUMENTS, version)
    [made] = kfp_server.recurring.values()
    assert made["status"] == "ENABLED" and made["display_name"] == "handwriting"
    assert made["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * 1"}}
    assert made["max_concurrency"] == "1" and made["no_catchup"] is True
    assert made["runtime_config"] == {"parameters": ARGUMENTS}
    assert made["pipeline_version_reference"] == {"pipeline_id": version.pipeline_id,
                                                  "pipeline_version_id": version.version_id}
    assert kfp_server.experiments[made["experiment_id"]]["display_name"] == "handwriting"
    assert found["changed"] and found["enabled"] and found["id"] == made["recurring_run_id"]


def test_an_interval_is_in_seconds(client, kfp_server, version):
    schedule(client, every("6h"), {}, version)
    assert enabled(kfp_server) == [{"periodic_schedule": {"interval_second": "21600"}}]


def test_the_same_again_changes_nothing(client, kfp_server, version):
    first = schedule(client, MONDAYS, ARGUMENTS, version)
    before = list(kfp_server.recurring)
    again = schedule(client, MONDAYS, ARGUMENTS, version)
    assert not again["changed"] and again["id"] == first["id"] and list(kfp_server.recurring) == before


@pytest.mark.parametrize("change", ["trigger", "arguments", "version", "paused", "catch-up"])
def test_anything_else_replaces_it(client, kfp_server, version, change):
    first = schedule(client, MONDAYS, ARGUMENTS, version)
    old = kfp_server.recurring[first["id"]]
    if change == "paused":
        old["status"] = "DISABLED"
    if change == "catch-up":
        old["no_catchup"] = False
    second = schedule(client, every("1d") if change == "trigger" else MONDAYS,
                      {} if change == "arguments" else ARGUMENTS,
                      new_version(kfp_server, "def") if change == "version" else version)
    assert second["changed"] and list(kfp_server.recurring) == [second["id"]] and second["id"] != first["id"]
    assert len(enabled(kfp_server)) == 1 == kfp_server.most_enabled


def test_one_in_error_is_disabled_before_another_is_enabled(client, kfp_server, version):
    first = schedule(client, MONDAYS, ARGUMENTS, version)
    kfp_server.recurring[first["id"]]["status"] = "STATUS_UNSPECIFIED"
    second = schedule(client, MONDAYS, ARGUMENTS, version)
    changed = [call for call in kfp_server.calls if call.endswith((":disable", ":enable"))]
    assert changed[1:] == [f"POST {API}/recurringruns/{first['id']}:disable",
                           f"POST {API}/recurringruns/{second['id']}:enable"]


def test_runs_under_way_outlive_the_recurring_run(client, kfp_server, version):
    schedule(client, MONDAYS, ARGUMENTS, version)
    unschedule(client)
    deleted = [query for call, query in zip(kfp_server.calls, kfp_server.queries) if call.startswith("DELETE")]
    assert deleted == [{"propagation_policy": "ORPHAN"}]


@pytest.mark.parametrize("status", [500, None])
@pytest.mark.parametrize("step", ["POST /recurringruns", ":disable", ":enable"])
def test_a_step_that_fails_leaves_the_old_one_as_it_was(client, kfp_server, version, step, status):
    first = schedule(client, MONDAYS, ARGUMENTS, version)
    answer, passed = kfp_server.answer, []

    def failing(method, path, *more):
        if f"{method} {path.removeprefix(API)}" == step or step.startswith(":") and path.endswith(step) and not passed:
            passed.append(path)
            return (status, {"message": "etcd"}) if status else None
        return answer(method, path, *more)

    kfp_server.answer = failing
    with pytest.raises(PipelineError):
        schedule(client, every("1d"), ARGUMENTS, version)
    assert list(kfp_server.recurring) == [first["id"]] and len(enabled(kfp_server)) == 1
    assert kfp_server.most_enabled == 1


def test_what_cannot_be_taken_back_is_told_and_put_right_the_next_time(client, kfp_server, version):
    schedule(client, MONDAYS, ARGUMENTS, version)
    answer = kfp_server.answer
    kfp_server.answer = lambda method, path, *more: (500, {"message": "etcd"}) if (
        path.endswith(":enable") or method == "DELETE") else answer(method, path, *more)
    with pytest.raises(PipelineError, match="could not be taken back .*pipeline list.*schedule again"):
        schedule(client, every("1d"), ARGUMENTS, version)
    assert enabled(kfp_server) == [] and len(kfp_server.recurring) == 2
    kfp_server.answer = answer
    schedule(client, every("1d"), ARGUMENTS, version)
    assert len(kfp_server.recurring) == len(enabled(kfp_server)) == kfp_server.most_enabled == 1


def test_an_old_one_that_cannot_be_deleted_stays_disabled(client, kfp_server, version, caplog):
    schedule(client, MONDAYS, ARGUMENTS, version)
    [old] = kfp_server.recurring
    kfp_server.faults[f"DELETE /recurringruns/{old}"] = [(500, "etcd")]
    schedule(client, every("1d"), ARGUMENTS, version)
    assert kfp_server.recurring[old]["status"] == "DISABLED" and len(enabled(kfp_server)) == 1
    assert "schedule again to remove it" in caplog.text
    schedule(client, every("1d"), ARGUMENTS, version)
    assert old not in kfp_server.recurring and len(kfp_server.recurring) == 1


def test_recurring_runs_of_other_names_are_left_alone(client, kfp_server, version):
    other = {"display_name": "by hand", "max_concurrency": "2", "mode": "ENABLE", "trigger": {}, "experiment_id": "e"}
    kfp_server.create_recurring_run(other)
    schedule(client, MONDAYS, ARGUMENTS, version)
    assert len(unschedule(client)) == 1
    assert [run["display_name"] for run in kfp_server.recurring.values()] == ["by hand"]
    [seen] = listed(client)
    assert (seen["trigger"], seen["version"], seen["next"]) == ("another form", "", None)


def test_arguments_that_do_not_fit_are_refused(client, kfp_server, version):
    with pytest.raises(ConfigError, match="did you mean epochs"):
        schedule(client, MONDAYS, {"epoch": 3}, version)
    assert not kfp_server.recurring


def test_the_weekly_pipeline_has_a_recurring_run_of_its_own(client, kfp_server, version):
    schedule(client, MONDAYS, ARGUMENTS, version)
    made = schedule(client, MONDAYS, {"days": 14}, version, drift_pipeline)
    assert sorted(run["display_name"] for run in kfp_server.recurring.values()) == ["handwriting", "handwriting-drift"]
    assert len(enabled(kfp_server)) == 2
    with pytest.raises(ConfigError, match="no parameter 'epochs'"):
        schedule(client, MONDAYS, {"epochs": 3}, version, drift_pipeline)
    assert unschedule(client, drift_pipeline) == [made["id"]]
    assert [run["display_name"] for run in kfp_server.recurring.values()] == ["handwriting"]


def test_unschedule_without_a_schedule_does_nothing(client):
    assert unschedule(client) == []


def test_the_list_tells_trigger_version_last_and_next(client, kfp_server, version):
    made = schedule(client, MONDAYS, ARGUMENTS, version)
    run = {"display_name": "handwriting-1", "experiment_id": list(kfp_server.experiments)[0],
           "runtime_config": {"parameters": {}}, "recurring_run_id": made["id"], "scheduled_at": "2026-11-23T03:00:00Z"}
    kfp_server.create_run({**run, "scheduled_at": "2026-11-16T03:00:00Z"})
    kfp_server.create_run(run)
    kfp_server.create_run({**run, "recurring_run_id": "another", "scheduled_at": "2026-11-24T03:00:00Z"})
    [found] = listed(client)
    assert (found["name"], found["trigger"]) == ("handwriting", "cron 0 0 3 * * 1 UTC")
    assert (found["last"], found["version"]) == ("2026-11-23T03:00:00Z", "abc1234567")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT03:00:00Z", found["next"])
    kfp_server.recurring[made["id"]]["status"] = "DISABLED"
    assert listed(client)[0]["next"] is None


def test_all_pages_are_listed(client, kfp_server, version):
    kfp_server.page = 1
    schedule(client, MONDAYS, ARGUMENTS, version)
    kfp_server.create_recurring_run({**list(kfp_server.recurring.values())[0], "mode": "ENABLE", "display_name": "two"})
    assert [found["name"] for found in listed(client)] == ["handwriting", "two"]


def command(*arguments):
    return subprocess.run([sys.executable, "-m", "pipeline", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_the_commands_upload_schedule_list_and_unschedule(kfp_server):
    def result(*arguments):
        done = command(*arguments, "--host", kfp_server.url)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    uploaded = result("upload")
    made = result("schedule", "--cron", "0 0 3 * * 1", "--set", "epochs=3", "--set", "bucket=s3://b")
    [found] = result("list")["schedules"]
    assert uploaded["new"] and made["changed"] and len(kfp_server.pipelines) == 1
    assert {**found, "changed": True} == made
    assert found["arguments"] == {"epochs": 3, "bucket": "s3://b"}
    assert found["version"].startswith(uploaded["name"][:10])
    assert result("unschedule") == {"deleted": [made["id"]]} and result("list") == {"schedules": []}


def test_the_commands_know_the_weekly_pipeline_too(kfp_server):
    done = command("schedule", "--pipeline", "drift", "--every", "7d", "--set", "days=7", "--host", kfp_server.url)
    assert done.returncode == 0, done.stderr
    [pipeline], [version] = kfp_server.pipelines.values(), kfp_server.versions.values()
    assert pipeline["name"] == version["pipeline_spec"]["pipelineInfo"]["name"] == "handwriting-drift"
    assert json.loads(done.stdout.splitlines()[-1])["arguments"] == {"days": 7}
    assert command("unschedule", "--pipeline", "drift", "--host", kfp_server.url).returncode == 0
    assert not kfp_server.recurring


@pytest.mark.parametrize("arguments, said", [
    (["schedule", "--cron", "0 3 * * 1"], "five fields"), (["schedule", "--every", "often"], "30m, 6h, 1d"),
    (["schedule", "--every", "1d", "--set", "epoch=3"], "did you mean epochs"),
    (["list"], "cannot be reached")])
def test_errors_of_the_commands_are_one_line(arguments, said, no_kfp):
    done = command(*arguments, "--host", "http://127.0.0.1:9")
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and said in line and "Traceback" not in done.stderr
