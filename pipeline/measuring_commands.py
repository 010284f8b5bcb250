"""The commands that measure: against the tutorial, and with hostile input."""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handwriting.hyperparameters import ModelConfig, TrainConfig
from handwriting.image import ImageConfig
from pipeline.command_options import add_command, add_config, add_language_model_option, config_of


def add_commands(commands: Any) -> None:
    """Adds them to the command line."""
    for add in (_add_bench, _add_fuzz):
        add(commands)


def _add_bench(commands: Any) -> None:
    command = add_command(commands, bench_command)
    command.add_argument("--data", type=Path, help="folder in the bucket's layout (default: rendered sample lines)")
    command.add_argument("--transfers", action="store_true", help="compare how pictures travel instead of training")
    command.add_argument("--serving", default="", metavar="MODEL", help="compare how this bundle, a local folder, is "
                                                                        "served under load instead")
    command.add_argument("--seconds", type=float, default=10.0, help="of each measurement of --serving")
    command.add_argument("--requests", type=int, default=0, help="to send in --serving after that, with a look at the "
                                                                 "server's memory after each tenth of them")
    add_language_model_option(command)
    command.add_argument("--latency", type=float, default=20.0,
                         help="ms that the bucket of --transfers takes to answer; 0: one on this machine")
    command.add_argument("--lines", type=int, default=2000, help="lines to train on, or pictures to move, at most")
    command.add_argument("--repeat", type=int, default=4, help="how often the same lines for the second memory row")
    add_config(command, TrainConfig, ["batch"])
    add_config(command, ImageConfig, ["height", "squeeze"])
    add_config(command, ModelConfig)


def bench_command(options: argparse.Namespace) -> Mapping[str, Any]:
    """Compares with the tutorial, side by side: training, transfers or serving. Prints a table; takes minutes."""
    from pipeline import bench, bench_serving, bench_transfers
    from pipeline.samples import make_samples

    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        if options.data is None:
            make_samples(Path(scratch))
        data = options.data or Path(scratch)
        if options.serving:
            result = bench_serving.bench_serving(options.serving, data, options.seconds, options.language_model,
                                                 requests=options.requests)
            table = bench_serving.table(result)
        elif options.transfers:
            result = bench_transfers.bench_transfers(data, options.lines, options.latency / 1000)
            table = bench_transfers.table(result)
        else:
            result = bench.bench(data, options.lines, options.repeat, options.batch,
                                 config_of(ImageConfig, options), config_of(ModelConfig, options))
            table = bench.table(result)
    print(table, file=sys.stderr)
    return result


def _add_fuzz(commands: Any) -> None:
    command = add_command(commands, fuzz_command)
    command.add_argument("--url", default="http://localhost:8080", help="address of the predictor")
    command.add_argument("--count", type=int, default=10_000, help="inputs")
    command.add_argument("--seed", type=int, default=0, help="decides which; the same seed sends the same bytes")
    command.add_argument("--clients", type=int, default=2, help="that send at the same time")
    command.add_argument("--failures", type=Path, default=Path("failures"),
                         help="folder for inputs whose answer was wrong")
    command.add_argument("--pid", type=int, help="process id of the predictor, where it runs on this machine: then the "
                                                 "same workers must be there at the end")
    command.add_argument("--again", nargs="+", type=Path, default=[], help="send these files instead, to every route")


def fuzz_command(options: argparse.Namespace) -> Mapping[str, Any]:
    """Sends damaged and hostile pictures to a predictor; exit status 1 where an answer was none that it documents.

    Prints a table. An input whose answer was wrong is kept in a folder, and `--again FILE` sends it once more.
    """
    from handwriting import access
    from pipeline import fuzz

    with fuzz.Target(options.url, access.headers()) as target:
        report = fuzz.again(target, options.again) if options.again else fuzz.fuzz(
            target, options.count, options.seed, options.clients, options.failures, options.pid)
    print(fuzz.table(report), file=sys.stderr)
    return report.summary()
