"""The README says what is there."""

import inspect
import re
import shlex

from conftest import ROOT

from pipeline.cli import parser
from pipeline.handwriting_pipeline import handwriting_pipeline

README = (ROOT / "README.md").read_text("utf-8")


def test_the_tree_names_every_module():
    named = set(re.findall(r"^ *(?:\w+/)*(\w+\.py) ", README.partition("## Tree")[2], re.MULTILINE))
    folders = ("pipeline", "ops", "ops/shared/handwriting")
    there = {path.name for folder in folders for path in (ROOT / folder).glob("*.py") if not path.name.startswith("__")}
    assert named == there | {"compile.py"}


def test_the_table_names_every_parameter_and_its_default():
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]+) \|", README.partition("| parameter |")[2], re.MULTILINE)
    defaults = {name: default for names, values in rows for name, default in
                zip(re.findall(r"\w+", names), values.split(", ") if "," in names else [values])}
    parameters = inspect.signature(handwriting_pipeline.pipeline_func).parameters
    assert set(parameters) <= set(defaults)
    for name in ("epochs", "batch", "learning_rate", "augmentation", "patience", "height", "hidden", "margin", "mode"):
        assert str(parameters[name].default).removesuffix(".0") == defaults[name].strip("` ")


def test_the_commands_parse():
    commands = re.findall(r"^python -m pipeline (\w.*)$", README, re.MULTILINE)
    assert len(commands) >= 6
    for command in commands:
        parser().parse_args(shlex.split(command))


def test_make_knows_the_targets_the_readme_names():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make (\w+)", README.partition("## On Kubeflow")[0])) - {"run"} <= targets
