"""The guide and the dashboard name what is there."""

import inspect
import json
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

from handwriting import deployment, layout
from handwriting.inference_service import MODES, ServiceConfig, manifest
from handwriting.monitoring import PROBES, Metrics
from ops.packages import requirements
from pipeline.cli import parser
from pipeline.cluster_manifests import CLUSTER, EXPERIMENT, RULES, SECRETS_FILE, SERVICE
from pipeline.drift_pipeline import drift_pipeline
from pipeline.handwriting_pipeline import SECRETS, handwriting_pipeline

GUIDE = (ROOT / "docs/cluster.md").read_text("utf-8")
COMMANDS = GUIDE.replace("\\\n", "")  # each on one line
CODE = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
DASHBOARD = json.loads((ROOT / "docs/grafana-dashboard.json").read_text("utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
QUERIES = [variable["definition"] for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"]
SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "gauge": [""], "info": ["_info"]}


def rows(heading: str) -> list[list[str]]:
    """Returns the cells of the first table whose heading row starts so."""
    table = GUIDE.partition(f"\n| {heading}")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()[2:]]


def code(word: str) -> str:
    """Returns the one Python block with a word in it."""
    [found] = [block for block in CODE if word in block]
    return found


def slug(heading: str) -> str:
    """Returns the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_readme_leads_to_the_guide():
    assert "(docs/cluster.md)" in (ROOT / "README.md").read_text("utf-8").partition("## On Kubeflow")[2]


def test_links_within_the_guide_lead_somewhere():
    anchors = {slug(heading) for heading in re.findall(r"^#+ (.+)$", GUIDE, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", GUIDE)) <= anchors


def test_every_secret_and_each_of_its_keys_is_named():
    named = {cells[0].strip("`"): tuple(re.findall(r"\w+", cells[1])) for cells in rows("secret |")}
    assert named == SECRETS


def test_files_of_the_repository_exist():
    paths = re.findall(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|cfg|json|ya?ml|md))`", GUIDE)
    bucket = (layout.DATA, layout.DATASETS, layout.MODELS, layout.RUNS)
    own = [path for path in paths if path.partition("/")[0] not in ("build", *bucket)]
    assert len(own) > 4
    assert [path for path in own if not (ROOT / path).is_file()] == []


def test_files_of_the_build_folder_are_those_that_compile_writes():
    named = set(re.findall(r"\bbuild/([\w.-]+)", GUIDE))
    assert {"pipeline.yaml", CLUSTER, SECRETS_FILE} <= named <= {
        "pipeline.yaml", "drift.yaml", CLUSTER, SECRETS_FILE, SERVICE, EXPERIMENT}


def test_parameters_exist():
    signature = inspect.signature(handwriting_pipeline.pipeline_func).parameters
    table = {name for cells in rows("parameter |") for name in re.findall(r"`(\w+)`", cells[0])}
    given = set(re.findall(r"--set (\w+)=", GUIDE))
    prose = set(re.findall(r"`(\w+)`", GUIDE)) & {"epochs", "batch", "seed", "mode", "namespace", "margin"}
    assert len(prose) == 6
    weekly = set(inspect.signature(drift_pipeline.pipeline_func).parameters)
    assert given and table | prose <= set(signature) and given <= set(signature) | weekly


def test_modes_are_those_of_the_manifest():
    assert all(f"`{mode}`" in GUIDE for mode in MODES)


def test_the_rights_are_those_of_the_role():
    role = {(".".join(filter(None, [resource, group])), tuple(rule["verbs"]))
            for rule in RULES for group in rule["apiGroups"] for resource in rule["resources"]}
    assert {(cells[0].strip("`"), tuple(cells[1].split(", "))) for cells in rows("resource |")} == role


def test_commands_parse():
    commands = re.findall(r"python -m pipeline ([^`\n]+)", GUIDE.replace("\\\n", ""))
    assert {command.split()[0] for command in commands} >= {"schedule", "list", "unschedule", "upload", "tune"}
    for command in commands:
        parser().parse_args(shlex.split(command))


def test_compile_knows_its_options():
    told = {option for cells in rows("| the steps run in") for option in re.findall(r"--[\w-]+", cells[-1])}
    told |= {option for line in re.findall(r"python compile\.py .+", COMMANDS)
             for option in re.findall(r"--[\w-]+", line)}
    assert told <= set(re.findall(r'"(--[a-z-]+)"', (ROOT / "compile.py").read_text("utf-8")))


def test_the_way_back_calls_the_deployment_rightly(monkeypatch):
    calls = []
    signature = inspect.signature(deployment.deploy)
    monkeypatch.setattr(deployment, "deploy", lambda *given, **more: calls.append(signature.bind(*given, **more)))
    exec(code("handwriting.deployment"), {})
    assert calls[0].arguments["config"].data_uri and calls[0].arguments["ask"] is None


def test_the_gpu_line_compiles_for_an_image_with_the_pinned_torch(tmp_path):
    [line] = re.findall(r"^python (compile\.py --gpus .*)$", COMMANDS, re.MULTILINE)
    subprocess.run([sys.executable, *shlex.split(line), "--out", str(tmp_path)], cwd=ROOT, check=True,
                   capture_output=True)
    [torch] = [package for package in requirements("train") if package.startswith("torch==")]
    assert f"image: pytorch/pytorch:{torch.partition('==')[2]}-cuda" in (tmp_path / "pipeline.yaml").read_text("utf-8")


def test_prometheus_is_told_what_the_manifest_says():
    predictor = manifest("s3://b/models/v1", "v1", ServiceConfig())["spec"]["predictor"]
    [container] = predictor["containers"]
    for name, value in predictor["annotations"].items():
        assert f"`{name}`" in GUIDE and (value == "true" or f"(`{value}`)" in GUIDE or f"({value})" in GUIDE)
    assert f"portNumber: {container['ports'][0]['containerPort']}" in GUIDE
    assert f'container="{container["name"]}"' in GUIDE
    cadvisor = [expr for expr in EXPRESSIONS if re.search(r"\bcontainer_\w+\{", expr)]
    assert len(cadvisor) == 2 and all(f'container="{container["name"]}"' in expr for expr in cadvisor)


def test_the_lines_of_the_guide_are_short():
    assert [line for line in GUIDE.splitlines() if len(line) > 120 and not line.startswith("|")] == []


def test_panels_are_distinct_and_ask_something():
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert len({panel["title"] for panel in PANELS}) == len(PANELS) > 10
    assert all(panel["targets"] and all(target["expr"].strip() for target in panel["targets"]) for panel in PANELS)
    assert all(len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) for panel in PANELS)


def test_panels_do_not_overlap():
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in DASHBOARD["panels"]):
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken and place["x"] + place["w"] <= 24
        taken |= cells


def test_the_dashboard_runs_on_any_prometheus_namespace_and_service():
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "namespace", "service"]
    assert variables["datasource"]["query"] == "prometheus"
    assert {panel["datasource"]["uid"] for panel in PANELS} == {"${datasource}"}
    used = set(re.findall(r"\$\{?(\w+)", " ".join(EXPRESSIONS + QUERIES)))
    assert used == {"namespace", "service", "__rate_interval"}


def test_the_service_is_found_in_the_names_of_pods():
    pattern = DASHBOARD["templating"]["list"][2]["regex"].strip("/")
    for pod in ("my-reader-predictor-6f9d-x2x", "my-reader-predictor-00001-deployment-6f9d-x2x"):
        assert re.search(pattern, pod)[1] == "my-reader"
        assert all(re.search(r'pod=~"([^"]+)"', expr)[1] == "${service}-predictor-.*" for expr in EXPRESSIONS)


@pytest.fixture
def exported(monkeypatch) -> set[str]:
    """The names of all series that the predictor shows."""
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    return {family.name + suffix for family in Metrics().exposed.collect() for suffix in SUFFIXES[family.type]}


def test_every_metric_of_ours_is_one_that_the_predictor_exports(exported):
    used = set(re.findall(r"\b(?:handwriting|process)_\w+", " ".join(EXPRESSIONS + QUERIES)))
    assert used <= exported


def test_alerts_watch_what_the_predictor_exports(exported):
    watched = set(re.findall(r"\bhandwriting_\w+", GUIDE.partition("### Alerts")[2].partition("\n## ")[0]))
    assert len(watched) > 4 and watched <= exported


def test_every_metric_of_ours_is_shown(exported):
    ours = {name for name in exported if name.startswith("handwriting_") and not name.endswith(("_count", "_sum"))}
    assert ours == set(re.findall(r"\bhandwriting_\w+", " ".join(EXPRESSIONS)))


def test_brackets_and_quotes_of_expressions_are_balanced():
    for expression in EXPRESSIONS:
        left = re.sub(r"[^()\[\]{}]", "", re.sub(r'"[^"]*"', "", expression))
        while left != (less := re.sub(r"\(\)|\[\]|\{\}", "", left)):
            left = less
        assert left == "" and expression.count('"') % 2 == 0, expression


def test_probes_do_not_blur_the_latency():
    timed = [expr for expr in EXPRESSIONS if "handwriting_request_seconds" in expr]
    assert timed
    for left_out in (re.search(r'route!~"([^"]+)"', expr)[1] for expr in timed):
        assert all(re.fullmatch(left_out, probe) for probe in PROBES)
        assert not re.fullmatch(left_out, "/predict")
