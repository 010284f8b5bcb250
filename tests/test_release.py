"""A release: a bundle and the code that serves it."""

import pytest

from handwriting import release, sources
from handwriting.bundle import REQUIREMENTS
from handwriting.errors import StoreError
from handwriting.store import LocalStore


@pytest.fixture
def bundle(tmp_path):
    return LocalStore(str(tmp_path / "models" / "v1"))


def keys(bundle) -> set[str]:
    return {entry.key for entry in bundle.list()}


def test_a_bundle_gets_what_serves_it_and_nothing_that_trains(bundle):
    folder = f"code/{release.add_code(bundle)}"
    assert {f"{folder}/{REQUIREMENTS}", f"{folder}/handwriting/serving.py"} <= keys(bundle)
    assert f"{folder}/handwriting/training.py" not in keys(bundle)
    assert b"onnxruntime==" in bundle.read(f"{folder}/{REQUIREMENTS}")


def test_the_same_code_twice_changes_nothing_and_other_code_lies_beside_it(bundle, monkeypatch):
    first = release.add_code(bundle)
    before = keys(bundle)
    assert release.add_code(bundle) == first and keys(bundle) == before
    monkeypatch.setattr(sources, "digest", lambda root: "mended")
    second = release.add_code(bundle)
    assert second != first and before < keys(bundle)


def test_a_release_names_version_and_code():
    found = release.name("0123abcd")
    assert found.startswith("0123abcd-") and release.code_of(found) == release.digest()


def test_other_packages_are_another_code(monkeypatch):
    before = release.digest()
    monkeypatch.setattr(release, "requirements", lambda: ["flask==0.1"])
    assert release.digest() != before


def test_a_step_that_dies_has_not_added_its_requirements_and_the_next_one_finishes(bundle, monkeypatch):
    write = bundle.write

    def dies(key, data):
        if key.endswith("serving.py"):
            raise StoreError("gone")
        write(key, data)
    with monkeypatch.context() as patch:
        patch.setattr(bundle, "write", dies)
        with pytest.raises(StoreError):
            release.add_code(bundle)
    assert not bundle.exists(f"code/{release.digest()}/{REQUIREMENTS}")
    release.add_code(bundle)
    assert bundle.exists(f"code/{release.digest()}/{REQUIREMENTS}")
