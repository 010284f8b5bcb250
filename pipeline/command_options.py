"""What all commands share: how one is added, and options made of the fields of a config."""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

import docstring_parser

Config = TypeVar("Config")


def add_command(commands: Any, function: Any) -> argparse.ArgumentParser:
    """Adds a command named and described as its function."""
    text = function.__doc__.strip()
    added = commands.add_parser(function.__name__.removesuffix("_command"), help=text.splitlines()[0], description=text,
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    added.set_defaults(command=function)
    return added


def add_config(command: argparse.ArgumentParser, config: type, only: Sequence[str] = ()) -> None:
    """Adds an option for each plain field of a config; its docstring is the help."""
    help_of = {p.arg_name: p.description for p in docstring_parser.parse(config.__doc__ or "").params}
    for field in fields(config):
        if not isinstance(field.default, (int, float, str)) or only and field.name not in only:
            continue
        kind: dict[str, Any] = {"type": type(field.default)}
        if isinstance(field.default, bool):  # --x and --no-x: bool("False") would be true
            kind = {"action": argparse.BooleanOptionalAction}
        command.add_argument(f"--{field.name.replace('_', '-')}", **kind, default=field.default,
                             help=(help_of.get(field.name) or field.name).replace("%", "%%"))


def config_of(config: type[Config], options: argparse.Namespace, **more: Any) -> Config:
    """Makes a config from the options it added."""
    given = {field.name: getattr(options, field.name) for field in fields(config)  # type: ignore[arg-type]
             if hasattr(options, field.name)}
    return config(**{**given, **more})


def add_language_model_option(command: argparse.ArgumentParser) -> None:
    """Adds the option to read with the bundle's language model."""
    command.add_argument("--language-model", action="store_true",
                         help="read by beam search with the bundle's language model: fewer errors, more time")
