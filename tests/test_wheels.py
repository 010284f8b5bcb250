"""The wheels of a predictor: the right ones, complete, hashed, whole or not at all. None of it needs the internet."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import Answer

from handwriting import wheels
from handwriting.bundle import CONFIG, fetch_bundle
from handwriting.errors import DeployError, MissingError, StoreError
from handwriting.layout import WHEELS
from handwriting.store import LocalStore, open_store
from handwriting.wheels import Target

LINUX = Target("3.11", "x86_64")
CODE = "c0de"


def make_wheel(folder: Path, name: str, version: str = "1.0", tag: str = "py3-none-any", needs: tuple = ()) -> Path:
    """Makes the wheel of a package with one module."""
    folder.mkdir(parents=True, exist_ok=True)
    path, info = folder / f"{name}-{version}-{tag}.whl", f"{name}-{version}.dist-info"
    metadata = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {requirement}" for requirement in needs),
                *(f"Provides-Extra: {extra}" for extra in re.findall('extra == "(.*?)"', str(needs)))]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"TAG = {tag!r}\n")
        archive.writestr(f"{info}/METADATA", "\n".join(["Metadata-Version: 2.1", *metadata, ""]))
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that is all pip finds packages in."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


@pytest.fixture
def bundle(tmp_path):
    """A bundle that needs `app`."""
    store = LocalStore(str(tmp_path / "models" / "v1"))
    store.write(f"code/{CODE}/requirements.txt", b"app==1.0\n")
    return store


def names(store, target=LINUX) -> list[str]:
    return [entry.key.removeprefix(f"{target.folder}/") for entry in store.list(f"{target.folder}/")]


def lock(store, target=LINUX) -> list[str]:
    return store.read(target.lock(CODE)).decode().splitlines()


def test_the_wheels_and_all_they_need_come_with_a_lock_that_installs_them(index, bundle, tmp_path):
    make_wheel(index, "app", needs=("Deep_Lib>=1", 'windows_only; sys_platform == "win32"', 'test; extra == "dev"'))
    make_wheel(index, "deep_lib", "1.5")
    where = wheels.ensure(bundle, CODE, LINUX)
    assert where == f"{bundle.root}/wheels/cp311-linux-x86_64"
    assert names(bundle) == ["app-1.0-py3-none-any.whl", "deep_lib-1.5-py3-none-any.whl"]
    assert [line.split(" --hash=sha256:")[0] for line in lock(bundle)] == ["app==1.0", "deep-lib==1.5"]
    subprocess.run([sys.executable, "-m", "pip", "install", "--no-index", "--find-links", where, "--require-hashes",
                    "--target", str(tmp_path / "site"), "-r", f"{bundle.root}/{LINUX.lock(CODE)}"], check=True,
                   env={**os.environ, "PIP_FIND_LINKS": ""})
    assert {"app.py", "deep_lib.py"} <= {path.name for path in (tmp_path / "site").iterdir()}


def test_a_second_call_runs_no_pip(index, bundle, monkeypatch):
    make_wheel(index, "app")
    first = wheels.ensure(bundle, CODE, LINUX)
    monkeypatch.setattr(subprocess, "run", None)
    assert wheels.ensure(bundle, CODE, LINUX) == first


@pytest.mark.parametrize(("target", "tag"), [
    (Target("3.11", "x86_64"), "cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64"),
    (Target("3.12", "x86_64"), "cp312-cp312-manylinux_2_28_x86_64"),
    (Target("3.11", "aarch64"), "cp311-cp311-manylinux2014_aarch64"),
    (Target("3.13", "aarch64"), "cp38-abi3-manylinux_2_31_aarch64")])
def test_each_python_and_machine_gets_its_own_wheel_of_the_oldest_glibc(index, bundle, target, tag):
    for other in ("cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64", "cp311-cp311-manylinux_2_28_x86_64",
                  "cp312-cp312-manylinux_2_28_x86_64", "cp311-cp311-manylinux2014_aarch64",
                  "cp38-abi3-manylinux_2_31_aarch64", "cp311-cp311-macosx_11_0_arm64", "cp311-cp311-win_amd64"):
        make_wheel(index, "app", tag=other)
    wheels.ensure(bundle, CODE, target)
    assert names(bundle, target) == [f"app-1.0-{tag}.whl"]


def test_sets_for_several_pythons_lie_beside_each_other(index, bundle):
    make_wheel(index, "app")
    for target in (LINUX, Target("3.12", "aarch64")):
        wheels.ensure(bundle, CODE, target)
        assert names(bundle, target) == ["app-1.0-py3-none-any.whl"]


def test_conditions_are_those_of_the_target_not_of_the_python_that_downloads(index, bundle):
    other = Target("3.45", "aarch64")
    make_wheel(index, "app", needs=('new; python_version >= "3.45"', 'arm[fast]; platform_machine == "aarch64"'))
    make_wheel(index, "new", needs=('newer>=1; python_version >= "3.45"',))
    for name in ("newer", "speed"):
        make_wheel(index, name)
    make_wheel(index, "arm", needs=('speed; extra == "fast"',))
    wheels.ensure(bundle, CODE, LINUX)
    wheels.ensure(bundle, CODE, other)
    assert [line.split("==")[0] for line in lock(bundle)] == ["app"]
    assert [line.split("==")[0] for line in lock(bundle, other)] == ["app", "arm", "new", "newer", "speed"]


@pytest.mark.parametrize("fatal", ["deep", LINUX.name])
def test_a_step_that_dies_leaves_no_lock_and_the_next_one_finishes(index, bundle, monkeypatch, fatal):
    def dies(original):
        def call(self, *where):
            if any(isinstance(part, str) and fatal in part.rpartition("/")[2] for part in where):
                raise StoreError("gone")
            return original(self, *where)
        return call

    make_wheel(index, "app", needs=("deep",))
    make_wheel(index, "deep")
    with monkeypatch.context() as patch:
        for name in ("upload", "write"):
            patch.setattr(LocalStore, name, dies(getattr(LocalStore, name)))
        with pytest.raises(StoreError, match="gone"):
            wheels.ensure(bundle, CODE, LINUX)
    assert not bundle.exists(LINUX.lock(CODE))
    wheels.ensure(bundle, CODE, LINUX)
    assert len(lock(bundle)) == 2


@pytest.mark.parametrize("there", [None, "cp311-cp311-manylinux_2_99_x86_64", "cp312-cp312-manylinux_2_17_x86_64"])
def test_a_package_without_a_wheel_for_the_target_is_named_with_what_to_do(index, bundle, there):
    if there:
        make_wheel(index, "app", tag=there)
    with pytest.raises(DeployError, match=r"on linux x86_64: pip finds none of app==1.0; .* PIP_FIND_LINKS"):
        wheels.ensure(bundle, CODE, LINUX)
    assert names(bundle) == []


def test_an_index_that_is_away_is_named_without_its_password(index, bundle, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://someone:verysecret@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    said = r"127.0.0.1:9/simple/app/ cannot be read .*refused.*PIP_INDEX_URL"
    with pytest.raises(DeployError, match=said) as caught:
        wheels.ensure(bundle, CODE, LINUX)
    assert "verysecret" not in str(caught.value) and "someone" not in str(caught.value)


@pytest.mark.parametrize(("status", "said"), [
    (401, "cannot be read .401 .*credentials"), (403, "cannot be read .403 .*credentials"), (404, "finds none of app")])
def test_an_index_that_refuses_is_told_from_one_that_lacks_the_package(index, bundle, monkeypatch, fake_server, status,
                                                                       said):
    fake_server.answers["GET /simple/app/"] = [Answer(status, {})]
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", fake_server.url.replace("//", "//someone:verysecret@") + "/simple")
    with pytest.raises(DeployError, match=said) as caught:
        wheels.ensure(bundle, CODE, LINUX)
    assert "verysecret" not in str(caught.value)


def test_pips_other_errors_are_passed_on(index, bundle):
    bundle.write(f"code/{CODE}/requirements.txt", b"app=1.0\n")
    with pytest.raises(DeployError, match="pip says .*app=1.0"):
        wheels.ensure(bundle, CODE, LINUX)


def test_a_pip_that_hangs_is_given_up(index, bundle, monkeypatch):
    monkeypatch.setattr(wheels, "SECONDS", 0.01)
    with pytest.raises(DeployError, match="after 0.01 s"):
        wheels.ensure(bundle, CODE, LINUX)


def test_a_bundle_that_is_not_there_is_missing(index, tmp_path):
    with pytest.raises(MissingError):
        wheels.ensure(open_store(str(tmp_path / "nothing")), CODE, LINUX)


def test_a_copy_of_a_bundle_has_no_wheels_until_they_are_fetched(index, bundle, bucket, tmp_path):
    make_wheel(index, "app")
    store = open_store(f"s3://{bucket}/models/v1")
    store.write(CONFIG, b"{}")
    store.write(f"code/{CODE}/requirements.txt", b"app==1.0\n")
    for target in (LINUX, Target("3.12", "x86_64")):
        wheels.ensure(store, CODE, target)
    folder = fetch_bundle(store.root, tmp_path / "cache")
    assert [path.name for path in folder.rglob("*") if path.is_file()] == [CONFIG]
    wheels.fetch(store, folder, CODE, LINUX)
    assert [path.name for path in (folder / WHEELS).iterdir()] == ["cp311-linux-x86_64"]
    assert (folder / LINUX.folder / "app-1.0-py3-none-any.whl").exists()
    assert (folder / LINUX.lock(CODE)).exists() and (folder / "code" / CODE / "requirements.txt").exists()
    store.delete(LINUX.lock(CODE))
    wheels.fetch(store, folder, CODE, LINUX)  # all there: it asks the bucket for nothing


def test_two_predictors_of_one_bundle_share_wheels_and_each_has_its_lock(index, bundle):
    make_wheel(index, "app")
    make_wheel(index, "new")
    wheels.ensure(bundle, CODE, LINUX)
    bundle.write("code/0ther/requirements.txt", b"app==1.0\nnew==1.0\n")
    wheels.ensure(bundle, "0ther", LINUX)
    assert names(bundle) == ["app-1.0-py3-none-any.whl", "new-1.0-py3-none-any.whl"]
    assert len(lock(bundle)) == 1 and len(bundle.read(LINUX.lock("0ther")).splitlines()) == 2
