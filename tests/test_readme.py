"""The README says what is there."""

import ast
import importlib
import inspect
import re
import shlex

from conftest import ROOT

from pipeline.arguments import checked
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


def test_the_lines_for_a_notebook_call_what_there_is():
    """Every function by its name, with arguments that it takes, and parameters that the pipeline has."""
    [lines] = re.findall(r"```python\n(.*?)```", README.partition("### From a notebook")[2], re.DOTALL)
    tree = ast.parse(lines)
    named = {alias.name: importlib.import_module(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)
             for alias in node.names}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert {call.func.id for call in calls} == set(named)
    for call in calls:
        inspect.signature(getattr(named[call.func.id], call.func.id)).bind(*call.args)
    [given] = [node for node in ast.walk(tree) if isinstance(node, ast.Dict)]
    checked(ast.literal_eval(given))
