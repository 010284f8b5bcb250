"""Versions are named by git revision, and uploaded once."""

import re
import subprocess

import pytest

from handwriting.errors import ConfigError, PipelineError
from pipeline.client import connect
from pipeline.versions import revision, upload


@pytest.fixture
def client(kfp_server):
    return connect(kfp_server.url)


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "a.py").write_text("1")
    git(folder, "add", "a.py")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


def test_the_first_upload_makes_the_pipeline_with_one_version(client, kfp_server, checkout):
    made = upload(client, checkout)
    assert made.new and made.name == git(checkout, "rev-parse", "--short=10", "HEAD")
    [pipeline] = kfp_server.pipelines.values()
    [version] = kfp_server.versions.values()
    assert pipeline["display_name"] == pipeline["name"] == "handwriting"
    assert (version["pipeline_id"], version["display_name"]) == (pipeline["pipeline_id"], made.name)
    assert version["pipeline_spec"]["pipelineInfo"]["name"] == "handwriting"
    assert (made.pipeline_id, made.version_id) == (pipeline["pipeline_id"], version["pipeline_version_id"])


def test_the_same_revision_twice_changes_nothing(client, kfp_server, checkout):
    first = upload(client, checkout)
    assert upload(client, checkout) == first._replace(new=False)
    assert len(kfp_server.pipelines) == len(kfp_server.versions) == 1


def test_a_new_revision_is_a_new_version_of_the_same_pipeline(client, kfp_server, checkout):
    first = upload(client, checkout)
    git(checkout, "commit", "--quiet", "--allow-empty", "-m", "second")
    second = upload(client, checkout)
    assert second.new and second.name != first.name and second.pipeline_id == first.pipeline_id
    assert len(kfp_server.versions) == 2


def test_a_version_behind_the_first_page_is_found(client, kfp_server, checkout):
    kfp_server.page = 1
    first = upload(client, checkout)
    git(checkout, "commit", "--quiet", "--allow-empty", "-m", "second")
    second = upload(client, checkout)
    assert [upload(client, checkout).new, second.version_id == first.version_id] == [False, False]


def test_a_pipeline_of_another_name_is_left_alone(client, kfp_server, checkout):
    kfp_server.create("pipelines", {"display_name": "handwriting-2"})
    assert upload(client, checkout).pipeline_id in kfp_server.pipelines and len(kfp_server.pipelines) == 2


@pytest.mark.parametrize("change", ["a.py", "new.py"])
def test_a_changed_tree_is_dirty_and_named_by_what_it_compiles_to(checkout, change):
    (checkout / change).write_text("2")
    clean = git(checkout, "rev-parse", "--short=10", "HEAD")
    one, two = revision(checkout, b"spec"), revision(checkout, b"other spec")
    assert re.fullmatch(rf"{clean}-dirty-[0-9a-f]{{8}}", one) and one != two
    assert revision(checkout, b"spec") == one


def test_outside_a_checkout_it_says_what_to_do(client, kfp_server, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(ConfigError, match=f"{tmp_path} has no git revision .*clone of the repository"):
        upload(client, tmp_path)
    assert not kfp_server.pipelines


def test_without_git_it_says_what_to_do(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="clone of the repository"):
        revision(checkout, b"")


def test_a_refused_upload_is_told_and_tried_again_the_next_time(client, kfp_server, checkout):
    kfp_server.faults["POST /pipelines/upload_version"] = [(500, "no space left")]
    with pytest.raises(PipelineError, match="no space left"):
        upload(client, checkout)
    assert upload(client, checkout).new and len(kfp_server.pipelines) == 1
