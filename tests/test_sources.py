import subprocess
import sys

import pytest

from handwriting import sources
from handwriting.sources import closure, digest, imported, package_sources

PACKAGE = {
    "__init__": "",
    "errors": "",
    "store": "from handwriting.errors import StoreError",
    "reader": "import numpy\nfrom handwriting.store import open_store",
    "server": "def load():\n    from handwriting.reader import Reader\n",
    "training": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from handwriting import store, training",
}


@pytest.fixture
def package(monkeypatch):
    """A small package in place of this one."""
    content = dict(PACKAGE)
    monkeypatch.setattr(sources, "package_sources", lambda: content)
    return content


def test_serving_needs_its_reader_but_neither_training_nor_label_studio():
    names = set(closure(["serving"]))
    assert {"serving", "predictor", "reader", "bundle", "ctc", "image", "store", "errors", "__init__"} <= names
    assert not names & {"training", "augment", "model", "label_studio", "preprocessing", "packing", "inference_service"}


def test_preprocessing_needs_no_training_and_training_no_label_studio():
    assert not set(closure(["preprocessing"])) & {"training", "model", "predictor", "serving"}
    assert not set(closure(["training"])) & {"label_studio", "preprocessing", "serving", "inference_service"}


@pytest.mark.parametrize("source, names", [
    ("from handwriting.store import join", {"store"}),
    ("from handwriting import store, errors", {"store", "errors"}),
    ("import handwriting.store", {"store"}),
    ("import os, handwriting.store as s", {"store"}),
    ("def f():\n    from handwriting.store import join", {"store"}),
    ("if TYPE_CHECKING:\n    from handwriting.store import Store", {"store"}),
    ("try:\n    from handwriting.store import join\nexcept ImportError:\n    pass", {"store"}),
    ("import numpy\nfrom os import path\nfrom handwriting_other.store import join\nimport handwriting_other", set()),
    ("text = 'from handwriting.store import join'", set()),
])
def test_imports_of_this_package_are_found_wherever_they_stand(source, names):
    assert imported(source) == names


def test_a_closure_holds_all_that_is_needed_and_no_more(package):
    assert list(closure(["server"])) == ["__init__", "errors", "reader", "server", "store"]
    assert list(closure(["training"])) == ["__init__", "errors", "store", "training"]  # modules may name each other
    assert closure(["store"])["store"] == PACKAGE["store"]


def test_a_digest_changes_with_the_modules_needed_and_with_no_others(package):
    before = {root: digest(root) for root in PACKAGE}
    package["reader"] += "\n# another line"
    changed = {root for root in PACKAGE if digest(root) != before[root]}
    assert changed == {"reader", "server"}


def test_every_module_is_read_as_it_lies():
    folder = sources.Path(sources.__file__).parent
    assert set(package_sources()) == {path.stem for path in folder.glob("*.py")}
    assert package_sources()["errors"] == (folder / "errors.py").read_text("utf-8")


@pytest.mark.parametrize("root", ["serving", "preprocessing", "promotion", "inference_service"])
def test_a_closure_alone_can_be_imported(root, tmp_path):
    folder = tmp_path / "handwriting"
    folder.mkdir()
    for name, text in closure([root]).items():
        (folder / f"{name}.py").write_text(text, "utf-8")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import handwriting.{root} as m; print(m.__file__)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.strip() == str(folder / f"{root}.py"), done.stderr
