"""Arguments of a pipeline, checked before anything is sent: the server would refuse them late, or not at all."""

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from kfp.dsl.graph_component import GraphComponent

from handwriting.errors import ConfigError
from pipeline.handwriting_pipeline import handwriting_pipeline


def parameters(pipeline: GraphComponent = handwriting_pipeline) -> dict[str, inspect.Parameter]:
    """Returns a pipeline's parameters by name."""
    return dict(inspect.signature(pipeline.pipeline_func).parameters)


def checked(arguments: Mapping[str, Any], pipeline: GraphComponent = handwriting_pipeline) -> dict[str, Any]:
    """Returns arguments of a pipeline, once each is known to fit.

    Raises:
        ConfigError: One is unknown, or of another type than its parameter.
    """
    known = parameters(pipeline)
    for name, value in arguments.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ConfigError(f"the pipeline has no parameter {name!r}; {hint}It has {', '.join(known)}")
        kind = known[name].annotation
        fits = type(value) in (int, float) if kind is float else type(value) is kind  # True is an int, too
        if not fits:
            raise ConfigError(f"{name} is {value!r}, a {type(value).__name__}; give a value of type {kind.__name__}")
    return dict(arguments)


def typed(settings: list[str], pipeline: GraphComponent = handwriting_pipeline) -> dict[str, Any]:
    """Returns arguments of a pipeline from texts such as `epochs=20`.

    Raises:
        ConfigError: A text has no `=`, or its name or value does not fit the pipeline.
    """
    pairs = [setting.partition("=") for setting in settings]
    for name, equals, _ in pairs:
        if not equals:
            raise ConfigError(f"{name!r} sets nothing; write name=value, such as epochs=20")
    known = parameters(pipeline)
    return checked({name: _typed(name, value, known[name].annotation) if name in known else value
                    for name, _, value in pairs}, pipeline)


def _typed(name: str, text: str, kind: type) -> Any:
    try:
        return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        wanted = "true or false" if kind is bool else f"a value of type {kind.__name__}"
        raise ConfigError(f"{name} is {text!r}; give {wanted}") from None
