"""The command line: every step alone, on `s3://` URIs and local folders alike.

Progress and errors go to standard error; the result is one JSON object on the last line of standard output.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from handwriting import layout
from handwriting.alphabet import VIETNAMESE
from handwriting.errors import HandwritingError
from handwriting.image import ImageConfig
from handwriting.labels import LabelConfig
from handwriting.packing import PackConfig
from handwriting.store import join
from pipeline import kubeflow_commands, measuring_commands, serving_commands
from pipeline.command_options import add_command, add_config, add_language_model_option, config_of

log = logging.getLogger("pipeline")

TRIAL_OPTIONS = ("epochs", "weight_decay", "patience", "minutes", "seed")  # what a search takes as it is
DEFAULT_SAMPLE_BOUND = 0.10  # CER on the held-out sample lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 for an error a user can mend, 2 for a wrong command line."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("botocore").setLevel(logging.WARNING)
    try:
        result = options.command(options)
    except HandwritingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    if result is not None:
        print(json.dumps(result, ensure_ascii=False))
    return int(bool(result and result.get("failed")))


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    top = argparse.ArgumentParser(prog="python -m pipeline", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for add in (_add_render, _add_pack, _add_preprocess, _add_prelabel, _add_train, _add_tune, _add_evaluate,
                serving_commands.add_commands, _add_drift, measuring_commands.add_commands, _add_run,
                kubeflow_commands.add_commands):
        add(commands)
    return top


def _add_render(commands: Any) -> None:
    command = add_command(commands, render_command)
    command.add_argument("--out", required=True, type=Path, help="folder to write {train,validation}/images and "
                                                                 "labels.json to")
    command.add_argument("--texts", type=Path, help="UTF-8 file of texts like those to be read, one a line "
                                                    "(default: Vietnamese addresses)")
    command.add_argument("--fonts", type=Path, help="folder with files of handwriting fonts, the more the better "
                                                    "(default: installed packages fontpkg-*)")
    command.add_argument("--alphabet", default="", help="the characters (default: the 207 Vietnamese ones)")
    command.add_argument("--lines", type=int, default=6000, help="to render; a minute for 4,000")
    command.add_argument("--seed", type=int, default=0, help="decides all that is drawn")


def render_command(options: argparse.Namespace) -> Mapping[str, Any]:
    """Renders texts in handwriting fonts as labelled lines, to train a reader to start from before there are labels."""
    from handwriting.alphabet import Alphabet
    from handwriting.fonts import find_families, installed_families
    from handwriting.rendered_lines import read_texts, render_lines
    from pipeline.samples import compose_texts

    texts = read_texts(options.texts) if options.texts else compose_texts(options.lines, options.seed)
    families = find_families(options.fonts) if options.fonts else installed_families()
    counts = render_lines(options.out, texts, families, Alphabet(options.alphabet or VIETNAMESE), lines=options.lines,
                          seed=options.seed)
    return {"data": str(options.out), "lines": counts, "fonts": len(families)}


def _add_packing_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--alphabet", default="", help='the characters, or "labels" to take them from the training '
                                                        "labels (default: the 207 Vietnamese ones)")
    add_config(command, PackConfig, ["max_rejects"])
    add_config(command, ImageConfig, ["height", "squeeze", "max_width"])
    add_config(command, LabelConfig, ["min_characters", "max_characters"])


def _pack_config(options: argparse.Namespace) -> PackConfig:
    return PackConfig(config_of(ImageConfig, options), options.alphabet or VIETNAMESE, options.max_rejects)


def _add_pack(commands: Any) -> None:
    command = add_command(commands, pack_command)
    command.add_argument("--data", required=True, help="s3:// prefix or folder with {train,...}/images and labels.json")
    command.add_argument("--out", required=True, help="where datasets live; this one becomes <out>/<id>")
    _add_packing_options(command)


def pack_command(options: argparse.Namespace) -> Mapping[str, Any]:
    """Packs a folder in the bucket's layout into a dataset."""
    from handwriting.packing import pack_folder

    return pack_folder(options.data, options.out, _pack_config(options), config_of(LabelConfig, options)).summary()


def _add_label_studio_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--label-studio-url", default=os.environ.get("LABEL_STUDIO_URL", "http://localhost:8080"),
                         help="address; the token comes from LABEL_STUDIO_TOKEN")
    command.add_argument("--project", type=int, required=True, help="number of the project")
    command.add_argument("--data", required=True, help="s3:// prefix of the pictures, as the tasks name it")


def _add_preprocess(commands: Any) -> None:
    command = add_command(commands, preprocess_command)
    _add_label_studio_options(command)
    command.add_argument("--out", required=True, help="where datasets live; this one becomes <out>/<id>")
    command.add_argument("--sync", action="store_true", help="let Label Studio look for new pictures first")
    add_config(command, LabelConfig, ["captioning", "caption", "quality", "bad"])
    _add_packing_options(command)


def preprocess_command(options: argparse.Namespace) -> Mapping[str, Any]:
    """Exports a Label Studio project and packs it into a dataset."""
    from handwriting import label_studio
    from handwriting.preprocessing import preprocess

    client = label_studio.from_environment(options.label_studio_url)
    return preprocess(client, options.project, options.data, options.out, config_of(LabelConfig, options),
                      _pack_config(options), options.sync).summary()


def _add_prelabel(commands: Any) -> None:
    command = add_command(commands, prelabel_command)
    _add_label_studio_options(command)
    command.add_argument("--model", required=True, help="a bundle, or the folder of models (the one that serves)")
    command.add_argument("--language-model", action=argparse.BooleanOptionalAction, default=True,
                         help="read by beam search with the bundle's language model")
    command.add_argument("--sync", action=argparse.BooleanOptionalAction, default=True,
                         help="let Label Studio look for new pictures first")
    command.add_argument("--uncertain-first", action=argparse.BooleanOptionalAction, default=True,
                         help="let the project show these predictions, and the least certain ones first")
    add_config(command, LabelConfig, ["caption"])


def prelabel_command(options: argparse.Namespace) -> Mapping[str, Any]:
    """Posts a model's readings of unlabelled pictures to Label Studio, as predictions for people to correct."""
    from handwriting import label_studio
    from handwriting.prelabelling import prelabel

    client = label_studio.from_environment(options.label_studio_url)
    return prelabel(client, options.project, options.model, options.data, options.caption, options.language_model,
                    options.sync, options.uncertain_first).summary()


def _add_train(commands: Any) -> None:
    from handwriting.hyperparameters import ModelConfig, TrainConfig

    command = add_command(commands, train_command)
    command.add_argument("--dataset", required=True, help="a dataset, or the folder of datasets (its latest)")
    command.add_argument("--out", required=True, help="where models live; this one becomes <out>/<version>")
    command.add_argument("--runs", default="", help="where checkpoints live (default: <out>/runs)")
    command.add_argument("--checkpoint-seconds", type=float, default=30.0, help="shortest time between checkpoints")
    command.add_argument("--start", default="", help='a bundle to fine-tune; "champion": the one that serves, if '
                                                     'any; "rendered": train on rendered lines first, once for an '
                                                     "alphabet; default: new weights")
    command.add_argument("--compare", action="store_true",
                         help="with --start, also train with new weights, and keep what reads better")
    command.add_argument("--processes", type=int, default=0, help="that train together; 0 for one a GPU")
    command.add_argument("--reports", type=Path, help="local folder for curves.html and an offline Comet archive")
    add_config(command, TrainConfig)
    add_config(command, ModelConfig)


def train_command(options: argparse.Namespace) -> Mapping[str, Any]:
    """Trains a reader on a dataset and writes its bundle; goes on where a killed run stopped."""
    from handwriting.hyperparameters import ModelConfig, TrainConfig
    from handwriting.report import training_page
    from handwriting.runs import train
    from handwriting.tracking import Comet

    config, model = config_of(TrainConfig, options), config_of(ModelConfig, options)
    runs = options.runs or join(options.out, layout.RUNS)
    if not options.reports:
        return train(options.dataset, options.out, runs, model, config,
                     checkpoint_seconds=options.checkpoint_seconds, start=options.start,
                     compare=options.compare, processes=options.processes).summary()
    with Comet(options.reports, vars(config)) as experiment:
        run = train(options.dataset, options.out, runs, model, config, experiment.log_epoch,
                    options.checkpoint_seconds, options.start, options.compare, options.processes)
    (options.reports / "curves.html").write_text(training_page(run.summary(), run.epochs, run.left_out), "utf-8")
    return run.summary()


def _add_tune(commands: Any) -> None:
    from handwriting.experiment import TuneConfig
    from handwriting.hyperparameters import TrainConfig

    command = add_command(commands, tune_command)
    command.add_argument("--dataset", required=True, help="a dataset, or the folder of datasets (its latest)")
    command.add_argument("--out", default=layout.TUNING, help="where the trials' models and runs lie")
    command.add_argument("--report", type=Path, default=Path("tuning.html"), help="page to write")
    add_config(command, TuneConfig, ["algorithm", "trials", "failures", "stop_early"])
    add_config(command, TrainConfig, TRIAL_OPTIONS)


def tune_command(options: argparse.Namespace) -> Mapping[str, Any]:
    """Searches better hyperparameters, trial after trial on this machine; goes on where a killed search stopped.

    Each trial is the train step as Katib runs it.
    """
    from handwriting.experiment import TuneConfig
    from handwriting.searches import search_here
    from pipeline.katib import train_step

    given = {name: getattr(options, name) for name in TRIAL_OPTIONS}
    arguments = {"dataset": _absolute(options.dataset), "bucket": _absolute(options.out), **given}
    found = search_here(train_step(), arguments, config_of(TuneConfig, options, parallel=1))
    options.report.write_text(found.page, "utf-8")
    return {**found.summary(), "report": str(options.report)}


def _absolute(uri: str) -> str:
    """Returns a URI as it is, and a local folder by its whole path: a trial runs in a folder of its own."""
    return uri if uri.startswith("s3://") else str(Path(uri).resolve())


def _add_evaluate(commands: Any) -> None:
    command = add_command(commands, evaluate_command)
    command.add_argument("--model", required=True, help="a bundle, or the folder of models (the one that serves)")
    command.add_argument("--dataset", required=True, help="a dataset, or the folder of datasets (its latest)")
    command.add_argument("--split", default="test", choices=["train", "validation", "test"])
    add_language_model_option(command)
    command.add_argument("--report", type=Path, help="HTML file for the worst lines and commonest confusions")


def evaluate_command(options: argparse.Namespace) -> Mapping[str, Any]:
    """Scores a bundle on a split of a dataset."""
    from handwriting.evaluation import evaluate

    result = evaluate(options.model, options.dataset, options.split, options.language_model)
    if options.report:
        options.report.write_text(result.report, "utf-8")
    return {"model": options.model, "split": options.split, **result.scores.as_dict()}


def _add_drift(commands: Any) -> None:
    from handwriting.drift import DriftConfig

    command = add_command(commands, drift_command)
    command.add_argument("--data", required=True, help="s3:// prefix or folder with user_data/")
    command.add_argument("--model", required=True, help="a bundle, or the folder of models (the one that serves)")
    command.add_argument("--days", type=int, default=7, help="to look back")
    command.add_argument("--report", type=Path, help="HTML file for figures, charts and the least certain lines")
    add_config(command, DriftConfig)


def drift_command(options: argparse.Namespace) -> Mapping[str, Any]:
    """Compares what users sent with what the model that serves learned from, and says whether to train again."""
    from handwriting.drift import DriftConfig
    from handwriting.watching import watch

    found, report = watch(options.data, options.model, options.days, config_of(DriftConfig, options))
    if options.report:
        options.report.write_text(report, "utf-8")
    return found.summary()


def _add_run(commands: Any) -> None:
    command = add_command(commands, run_command)
    command.add_argument("--data", default="", help="folder in the bucket's layout (default: rendered sample lines)")
    command.add_argument("--folder", type=Path, default=Path(".run"), help="where servers, samples and logs live")
    command.add_argument("--once", action="store_true", help="stop after the check; status 0 where it held")
    command.add_argument("--epochs", type=int, default=24, help="passes over the training lines, at most")
    command.add_argument("--minutes", type=float, default=4.0, help="time limit of training")
    command.add_argument("--max-cer", type=float, default=None,
                         help=f"CER on the test lines above which the check fails (default: {DEFAULT_SAMPLE_BOUND} for "
                              "the samples, 1 for --data)")


def run_command(options: argparse.Namespace) -> Mapping[str, Any]:
    """Runs the whole loop on this machine with a real S3 server, Label Studio, pipeline and predictor.

    Existing servers are used where AWS_ENDPOINT_URL_S3 (with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or
    LABEL_STUDIO_URL (with LABEL_STUDIO_TOKEN) are set; HANDWRITING_BUCKET names the bucket, and LABEL_STUDIO_PROJECT a
    project that is used as it is, with nothing uploaded or labelled.
    """
    from pipeline.local_run import LocalRun

    bound = options.max_cer if options.max_cer is not None else 1.0 if options.data else DEFAULT_SAMPLE_BOUND
    with LocalRun(options.folder, options.data, options.epochs, options.minutes) as run:
        result = run.run(bound)
        if not options.once:
            run.wait()
    return result
