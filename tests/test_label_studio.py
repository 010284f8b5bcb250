import base64
import json
import logging
import socket
import time
import unicodedata
import uuid

import boto3
import pytest
from conftest import Answer

from handwriting.errors import LabelStudioError
from handwriting.label_studio import LabelStudio, Patience, from_environment
from handwriting.labels import Reason, select_labels
from pipeline.labelling import ensure_project, ensure_storage, import_labels

LEGACY = "0123456789abcdef0123456789abcdef01234567"
PERSONAL = "eyJhbGciOiJub25l.eyJ0b2tlbl90eXBlIjoicmVmcmVzaCJ9.c2lnbmF0dXJl"
SWIFT = Patience(connect=2, read=0.3, export=0.3, deadline=0.6, poll=0.02, tries=3, backoff=0.01)
EXPORT, PROJECT, EXPORTS = "/api/projects/1/export", "/api/projects/1/", "/api/projects/1/exports/"
TASK = {"id": 1, "annotations": [{"id": 1}], "data": {}}
LATE = 1.0  # seconds, well over what SWIFT waits
TEXTS = {"nfd.png": unicodedata.normalize("NFD", "Phường Bến Nghé"), "emoji.png": "Số 5 😀👩‍👩‍👧 Huế",
         "long.png": "x" * 500, "space.png": "  Hà\u00a0\t Nội\n", "quotes.png": "\"'<b>&amp;\\n%s{{x}}"}


@pytest.fixture(params=["legacy", "personal"])
def client(request, label_studio):
    """A client of the real server, by each kind of token."""
    token = label_studio.token if request.param == "legacy" else request.getfixturevalue("personal_token")
    return LabelStudio(label_studio.url, token)


@pytest.fixture
def admin(label_studio):
    """A client of the real server."""
    return LabelStudio(label_studio.url, label_studio.token)


@pytest.fixture
def project(admin):
    """The number of a new project."""
    return ensure_project(admin, f"test {uuid.uuid4().hex[:8]}")


@pytest.fixture
def fake(fake_server):
    """A client of a server that misbehaves on order."""
    return LabelStudio(fake_server.url, LEGACY, SWIFT)


def put(bucket, *keys):
    s3 = boto3.session.Session().client("s3")
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"picture")


def tasks_of(admin, project):
    return admin.json("GET", f"/api/tasks?project={project}&page_size=5000&fields=task_only&resolve_uri=false")["tasks"]


# the real server: exports and tokens


def test_both_kinds_of_token_export_every_text_unchanged(client, admin, project):
    import_labels(admin, project, "s3://nowhere/data", {"train": TEXTS})
    tasks = client.export(project)
    found = {task["data"]["captioning"]: task["annotations"][0]["result"][0]["value"]["text"] for task in tasks}
    assert found == {f"s3://nowhere/data/train/images/{name}": [text] for name, text in TEXTS.items()}


def test_an_empty_project_exports_nothing(client, project):
    assert client.export(project) == []
    assert client._snapshot_export(project) == []


@pytest.mark.parametrize("token", [LEGACY, PERSONAL])
def test_a_wrong_token_is_named_by_its_variable_and_not_shown(label_studio, token):
    hint = f"{label_studio.url}.*status 401.*check LABEL_STUDIO_TOKEN.*Legacy"
    with pytest.raises(LabelStudioError, match=hint) as caught:
        LabelStudio(label_studio.url, token).export(1)
    assert token not in str(caught.value)


def test_legacy_tokens_switched_off_are_explained(admin, personal_token, project):
    owner = LabelStudio(admin.url, personal_token)
    owner.request("POST", "/api/jwt/settings", json={"legacy_api_tokens_enabled": False})
    try:
        with pytest.raises(LabelStudioError, match="legacy token auth.* has been disabled.*Personal Access Token"):
            admin.export(project)
        assert owner.export(project) == []
    finally:
        owner.request("POST", "/api/jwt/settings", json={"legacy_api_tokens_enabled": True})


def test_a_project_that_does_not_exist_is_named_with_those_that_do(client, project):
    for call in (client.export, client.check, client.sync_storages):
        with pytest.raises(LabelStudioError, match=rf"project 987654 does not exist.*\b{project} \(test "):
            call(987654)
    assert client.check(project)["id"] == project


def test_a_personal_token_outlives_its_access_token(label_studio, personal_token, project):
    client = LabelStudio(label_studio.url, personal_token)
    client.check(project)
    client._access = client._access[:-4] + "AAAA"  # as if the server had revoked it
    assert client.check(project)["id"] == project


def test_a_snapshot_holds_what_the_plain_export_holds_and_leaves_nothing_behind(admin, project):
    import_labels(admin, project, "s3://nowhere/data", {"train": TEXTS})
    admin.request("POST", f"/api/projects/{project}/import", json=[{"data": {"captioning": "s3://nowhere/bare.png"}}])
    tasks = tasks_of(admin, project)
    (annotation,) = admin.json("GET", f"/api/tasks/{tasks[0]['id']}/annotations/")
    admin.request("PATCH", f"/api/annotations/{annotation['id']}/", json={"was_cancelled": True})
    plain, snapshot = admin.export(project), admin._snapshot_export(project)
    assert len(tasks) == len(plain) + 1 == len(TEXTS) + 1
    assert select_labels(plain, "s3://nowhere/data") == select_labels(snapshot, "s3://nowhere/data")
    assert [task["id"] for task in plain] == [task["id"] for task in snapshot]
    assert admin.json("GET", f"/api/projects/{project}/exports/") == []


# the real server: setting up


def test_a_project_is_made_once_and_found_by_its_title(admin):
    title = f"twice {uuid.uuid4().hex}"
    assert ensure_project(admin, title) == ensure_project(admin, title)
    assert ensure_project(admin, title + " ") != ensure_project(admin, title)


def test_a_storage_is_made_once_and_finds_new_pictures_of_users_only(client, admin, project, bucket):
    put(bucket, "data/train/images/a.png")
    numbers = [ensure_storage(client, project, uri) for uri in (f"s3://{bucket}/data", f"s3://{bucket}/data/")]
    assert numbers[0] == numbers[1]
    assert client.sync_storages(project) == 1
    assert tasks_of(admin, project) == []
    put(bucket, "data/user_data/images/x.PNG", "data/user_data/images/y.jpeg", "data/user_data/labels.json")
    for _ in range(2):
        client.sync_storages(project)
        assert sorted(task["data"]["captioning"] for task in tasks_of(admin, project)) == [
            f"s3://{bucket}/data/user_data/images/x.PNG", f"s3://{bucket}/data/user_data/images/y.jpeg"]
    assert client.export(project) == []


def test_label_studio_shows_pictures_of_every_split(admin, project, bucket):
    put(bucket, "data/train/images/a.png")
    ensure_storage(admin, project, f"s3://{bucket}/data")
    import_labels(admin, project, f"s3://{bucket}/data", {"train": {"a.png": "x"}})
    (task,) = admin.json("GET", f"/api/tasks?project={project}")["tasks"]
    assert admin.request("GET", task["data"]["captioning"]).content == b"picture"


def test_a_storage_without_pictures_or_bucket_says_what_to_check(admin, project, bucket):
    with pytest.raises(LabelStudioError, match=f"cannot read s3://{bucket}/data: check that it holds pictures"):
        ensure_storage(admin, project, f"s3://{bucket}/data")


def test_a_storage_that_cannot_be_read_any_more_says_so(admin, project, bucket):
    put(bucket, "data/train/images/a.png")
    ensure_storage(admin, project, f"s3://{bucket}/data")
    boto3.session.Session().client("s3").delete_object(Bucket=bucket, Key="data/train/images/a.png")
    with pytest.raises(LabelStudioError, match=rf"storage \d+ \(s3://{bucket}/data\) failed.*check its keys"):
        admin.sync_storages(project)


def test_labels_are_imported_once(admin, project):
    labels = {"train": {f"{number:04d}.png": f"Số {number}" for number in range(600)}, "test": {"0000.png": "Huế"}}
    started = time.monotonic()
    assert import_labels(admin, project, "s3://nowhere/data", labels) == (601, 0)
    print(f"601 labels imported in {time.monotonic() - started:.1f} s")
    labels["test"]["new.png"] = "Hội An"
    assert import_labels(admin, project, "s3://nowhere/data/", labels) == (1, 601)
    found, rejects = select_labels(admin.export(project), "s3://nowhere/data")
    assert {(label.split, label.name): label.text for label in found} == {
        (split, name): text for split, texts in labels.items() for name, text in texts.items()}
    assert rejects == []


def test_pictures_that_a_storage_found_first_get_their_label_and_no_second_task(admin, project, bucket):
    put(bucket, "data/user_data/images/a.png", "data/user_data/images/b.png")
    data = f"s3://{bucket}/data"
    ensure_storage(admin, project, data)
    assert import_labels(admin, project, data, {"user_data": {"a.png": "Huế"}}) == (1, 0)
    assert import_labels(admin, project, data, {"user_data": {"a.png": "Huế"}}) == (0, 1)
    assert len(tasks_of(admin, project)) == 2
    found, rejects = select_labels(admin.export(project), data)
    assert [(label.name, label.text) for label in found] == [("a.png", "Huế")]
    assert rejects == []


def test_a_label_that_people_cancelled_is_not_given_again(admin, project):
    import_labels(admin, project, "s3://nowhere/data", {"train": {"a.png": "x"}})
    (task,) = tasks_of(admin, project)
    (annotation,) = admin.json("GET", f"/api/tasks/{task['id']}/annotations/")
    admin.request("PATCH", f"/api/annotations/{annotation['id']}/", json={"was_cancelled": True})
    assert import_labels(admin, project, "s3://nowhere/data", {"train": {"a.png": "x"}}) == (0, 1)
    assert select_labels(admin.export(project), "s3://nowhere/data")[1][0].reason == Reason.CANCELLED


# faults


def test_a_server_that_is_down_is_named_with_what_to_do():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        for token in (LEGACY, PERSONAL):
            hint = f"{url} cannot be reached .*Refused.*start it.*LABEL_STUDIO_URL"
            with pytest.raises(LabelStudioError, match=hint) as caught:
                LabelStudio(url, token, SWIFT).export(1)
            assert token not in str(caught.value)


def test_a_host_that_does_not_exist_is_named():
    with pytest.raises(LabelStudioError, match="http://no-such-host.invalid:80 cannot be reached"):
        LabelStudio("http://no-such-host.invalid:80", LEGACY, SWIFT).check(1)


@pytest.mark.parametrize("url", ["", "localhost:80", "ftp://host", "http://", "http://user:pass@host", "http://h/?x=1"])
def test_impossible_urls_are_refused_without_showing_a_password(url):
    with pytest.raises(LabelStudioError, match="must look like http://host:8080") as caught:
        LabelStudio(url, LEGACY)
    assert "pass@" not in str(caught.value)


@pytest.mark.parametrize("token", ["", " ", "two words", "new\nline", "Türe"])
def test_impossible_tokens_are_refused_without_showing_them(token):
    with pytest.raises(LabelStudioError, match="check LABEL_STUDIO_TOKEN") as caught:
        LabelStudio("http://host", token)
    assert not token.strip() or token not in str(caught.value)


def test_the_token_comes_from_the_environment(monkeypatch, fake_server):
    fake_server.answers[f"GET {EXPORT}"] = [Answer(body=[])]
    monkeypatch.setenv("LABEL_STUDIO_TOKEN", f" {LEGACY}\n")
    assert from_environment(fake_server.url + "/", SWIFT).export(1) == []
    assert fake_server.requests[-1][1]["Authorization"] == f"Token {LEGACY}"
    for absent in ("", "  "):
        monkeypatch.setenv("LABEL_STUDIO_TOKEN", absent)
        with pytest.raises(LabelStudioError, match=f"LABEL_STUDIO_TOKEN is not set: {fake_server.url}"):
            from_environment(fake_server.url)


def test_a_password_in_netrc_does_not_replace_the_token(fake, fake_server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    fake_server.answers[f"GET {EXPORT}"] = [Answer(body=[])]
    fake.export(1)
    assert fake_server.requests[-1][1]["Authorization"] == f"Token {LEGACY}"


@pytest.mark.parametrize("status", [429, 502, 503])
def test_short_faults_are_waited_out(fake, fake_server, status):
    again = Answer(status, headers={"Retry-After": "0"})
    fake_server.answers[f"GET {EXPORT}"] = [Answer(status), again, Answer(body=[TASK])]
    assert fake.export(1) == [TASK]
    assert fake_server.asked("GET") == 3


def test_attempts_are_bounded(fake, fake_server):
    fake_server.answers[f"GET {PROJECT}"] = [Answer(503)]
    with pytest.raises(LabelStudioError, match="status 503; try again later"):
        fake.check(1)
    assert fake_server.asked("GET") == SWIFT.tries


def test_what_changes_something_is_sent_once(fake, fake_server):
    fake_server.answers["POST /api/projects/1/import"] = [Answer(502)]
    with pytest.raises(LabelStudioError, match="status 502"):
        fake.request("POST", "/api/projects/1/import", json=[])
    assert fake_server.asked("POST") == 1


def snapshot_of(server, *states, created=Answer(201, {"id": 5})):
    """Lets the fake server take a snapshot that passes through `states`, under the title asked for."""
    def listed(state):
        def body():
            title = next(request[2]["title"] for request in server.requests if request[0] == f"POST {EXPORTS}")
            return [{"id": 4, "title": "another", "status": "completed"}, {"id": 5, "title": title, "status": state}]
        return body

    server.answers[f"POST {EXPORTS}"] = [created]
    server.answers[f"GET {EXPORTS}"] = [Answer(body=listed(state)) for state in states]
    server.answers[f"GET {EXPORTS}5/download"] = [Answer(body=[TASK, TASK | {"id": 2, "annotations": []}])]
    server.answers[f"DELETE {EXPORTS}5"] = [Answer(204, "")]


@pytest.mark.parametrize("plain", [Answer(504), Answer(502), Answer(body=[], delay=LATE)], ids=["504", "502", "late"])
def test_where_the_plain_export_times_out_a_snapshot_is_taken(fake, fake_server, plain):
    fake_server.answers[f"GET {EXPORT}"] = [plain]
    snapshot_of(fake_server, "created", "in_progress", "completed")
    assert fake.export(1) == [TASK]
    assert fake_server.asked(f"GET {EXPORT}s/5/download") == fake_server.asked("DELETE") == 1


@pytest.mark.parametrize("created", [Answer(504), Answer(201, {}, delay=LATE)], ids=["504", "late"])
def test_a_snapshot_is_found_even_where_its_creation_timed_out(fake, fake_server, created):
    fake_server.answers[f"GET {EXPORT}"] = [Answer(504)]
    snapshot_of(fake_server, "completed", created=created)
    assert fake.export(1) == [TASK]
    assert fake_server.asked(f"POST {EXPORTS}") == 1


def test_an_edition_without_plain_export_is_asked_for_a_snapshot(fake, fake_server):
    fake_server.answers[f"GET {PROJECT}"] = [Answer(body={"id": 1})]
    snapshot_of(fake_server, "completed")
    assert fake.export(1) == [TASK]


def test_a_snapshot_that_fails_is_an_error_and_is_removed(fake, fake_server):
    fake_server.answers[f"GET {EXPORT}"] = [Answer(504)]
    snapshot_of(fake_server, "in_progress", "failed")
    with pytest.raises(LabelStudioError, match="snapshot of project 1 failed; look at"):
        fake.export(1)
    assert fake_server.asked("DELETE") == 1


def test_a_snapshot_that_never_ends_is_given_up(fake, fake_server):
    fake_server.answers[f"GET {EXPORT}"] = [Answer(504)]
    snapshot_of(fake_server, "in_progress")
    with pytest.raises(LabelStudioError, match="snapshot of project 1 did not finish within"):
        fake.export(1)


def test_a_snapshot_that_cannot_be_deleted_stops_nothing(fake, fake_server, caplog):
    fake_server.answers[f"GET {EXPORT}"] = [Answer(504)]
    snapshot_of(fake_server, "completed")
    fake_server.answers[f"DELETE {EXPORTS}5"] = [Answer(500)]
    with caplog.at_level(logging.INFO):
        assert fake.export(1) == [TASK]
    assert "stays behind" in caplog.text
    assert LEGACY not in caplog.text


def test_an_answer_that_is_not_json_is_told_by_its_type_not_its_content(fake, fake_server):
    page = Answer(body="<html>Nguyễn</html>", headers={"Content-Type": "text/html; charset=x"})
    fake_server.answers[f"GET {EXPORT}"] = [page]
    with pytest.raises(LabelStudioError, match="not JSON but text/html, .*check that the URL") as caught:
        fake.export(1)
    assert "Nguy" not in str(caught.value)


def test_an_export_that_is_no_list_is_told_by_its_type(fake, fake_server):
    fake_server.answers[f"GET {EXPORT}"] = [Answer(body={"detail": "Nguyễn"})]
    with pytest.raises(LabelStudioError, match="no list of tasks but a dict") as caught:
        fake.export(1)
    assert "Nguy" not in str(caught.value)


def test_refusals_name_the_fields_and_quote_no_task(fake, fake_server):
    detail = {"detail": "Validation error", "validation_errors": {"non_field_errors": ["task 'Nguyễn'"]}}
    fake_server.answers["POST /api/projects/1/import"] = [Answer(400, detail)]
    with pytest.raises(LabelStudioError, match=r"status 400, Validation error \(non_field_errors\)") as caught:
        fake.request("POST", "/api/projects/1/import", json=[])
    assert "Nguy" not in str(caught.value)


def test_a_redirected_change_is_an_error_that_names_the_right_url(fake, fake_server):
    fake_server.answers["POST /api/projects/"] = [Answer(301, headers={"Location": "https://other.example/x?t=1"})]
    with pytest.raises(LabelStudioError, match="status 301; it redirects to https://other.example: use"):
        fake.request("POST", "/api/projects/", json={})


def test_an_answer_that_breaks_off_is_an_error_of_ours(fake, fake_server):
    fake_server.answers[f"GET {PROJECT}"] = [Answer(body={"id": 1}, headers={"Content-Length": "1000"})]
    with pytest.raises(LabelStudioError, match="cannot be reached|no answer in time"):
        fake.check(1)


def test_no_answer_in_time_is_an_error_of_ours(fake, fake_server):
    fake_server.answers[f"GET {PROJECT}"] = [Answer(body={"id": 1}, delay=LATE)]
    fake_server.answers["POST /api/projects/1/import"] = [Answer(delay=LATE)]
    for call in (lambda: fake.check(1), lambda: fake.request("POST", "/api/projects/1/import", json=[])):
        with pytest.raises(LabelStudioError, match=f"{fake.url}.*no answer in time"):
            call()


def access_token(ends):
    payload = base64.urlsafe_b64encode(json.dumps({"exp": ends}).encode()).decode().rstrip("=")
    return f"head.{payload}.signature"


def personal(server, *lifetimes):
    tokens = [access_token(time.time() + one) for one in lifetimes]
    server.answers["POST /api/token/refresh/"] = [Answer(body={"access": token}) for token in tokens]
    server.answers[f"GET {PROJECT}"] = [Answer(body={"id": 1})]
    return LabelStudio(server.url, PERSONAL, SWIFT)


def test_an_access_token_is_kept_until_shortly_before_its_end(fake_server):
    client = personal(fake_server, 10, 300)
    for _ in range(4):
        client.check(1)
    assert fake_server.asked("POST /api/token/refresh/") == 2
    bearers = [headers["Authorization"] for _, headers, _ in fake_server.requests if "Authorization" in headers]
    assert len(bearers) == 4 and all(one.startswith("Bearer head.") for one in bearers)
    assert PERSONAL not in str(bearers)


def test_an_access_token_refused_early_is_renewed_once(fake_server):
    client = personal(fake_server, 300)
    fake_server.answers[f"GET {PROJECT}"] = [Answer(401), Answer(body={"id": 1})]
    assert client.check(1) == {"id": 1}
    fake_server.answers[f"GET {PROJECT}"] = [Answer(401)]
    with pytest.raises(LabelStudioError, match="check LABEL_STUDIO_TOKEN"):
        client.check(1)
    assert fake_server.asked(f"GET {PROJECT}") == 4


@pytest.mark.parametrize("answer", [Answer(body={}), Answer(body=[]), Answer(body="<html>")])
def test_a_refresh_without_token_is_an_error_of_ours(fake_server, answer):
    client = personal(fake_server, 300)
    fake_server.answers["POST /api/token/refresh/"] = [answer]
    with pytest.raises(LabelStudioError, match="/api/token/refresh/"):
        client.check(1)


@pytest.mark.parametrize(("states", "fault"), [
    (["completed"], None), (["queued", "in_progress", "completed"], None), (["completed_with_errors"], None),
    (["in_progress", "failed"], "failed; check its keys"), (["in_progress"], "did not finish within")])
def test_synchronising_waits_for_every_storage(fake, fake_server, states, fault):
    fake_server.answers[f"GET {PROJECT}"] = [Answer(body={"id": 1})]
    fake_server.answers["GET /api/storages/s3/"] = [Answer(body=[{"id": 7, "bucket": "b", "prefix": "p"}])]
    fake_server.answers["POST /api/storages/s3/7/sync"] = [Answer(504)]
    fake_server.answers["GET /api/storages/s3/7"] = [Answer(body={"status": state}) for state in states]
    if fault is None:
        assert fake.sync_storages(1) == 1
    else:
        with pytest.raises(LabelStudioError, match=rf"storage 7 \(s3://b/p\) {fault}"):
            fake.sync_storages(1)
    assert fake_server.asked("GET /api/storages/s3/7") >= len(states)
