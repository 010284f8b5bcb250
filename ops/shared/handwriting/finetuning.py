"""Starts training from a bundle's weights, also where the alphabet has changed since."""

from dataclasses import replace
from typing import NamedTuple

import torch
from safetensors.torch import load
from torch import Tensor

from handwriting.alphabet import BLANK, Alphabet
from handwriting.bundle import WEIGHTS, check_image, read_config
from handwriting.errors import DataError
from handwriting.hyperparameters import ModelConfig
from handwriting.image import ImageConfig
from handwriting.model import CLASS_LAYERS
from handwriting.store import open_store

RARE = 5.0  # logits by which a letter never seen starts below the others; else it would be read everywhere at first


class Start(NamedTuple):
    """What a run starts from: the bundle's URI, its weights, and the characters of its classes."""

    uri: str
    weights: dict[str, Tensor]
    alphabet: Alphabet


def load_start(uri: str, model_config: ModelConfig, image: ImageConfig) -> Start:
    """Loads a bundle's weights.

    Args:
        uri: The bundle.
        model_config: Size of the network to train.
        image: How the dataset's lines were scaled.

    Raises:
        MissingError: There is no bundle.
        DataError: Its network has another size, or reads lines of another height.
    """
    bundle = open_store(uri)
    config = read_config(bundle)
    found = replace(ModelConfig(**config.model), dropout=model_config.dropout)  # no weight depends on it
    if found != model_config:
        raise DataError(f"{uri} has the network {found}, this run {model_config}; train with the bundle's sizes, "
                        "or from the start")
    check_image(uri, config.image, image)
    if config.image.height != image.height:
        raise DataError(f"{uri} reads lines of {config.image.height} px, the dataset holds {image.height} px; pack the "
                        "data at that height, or train from the start")
    return Start(uri, load(bundle.read(WEIGHTS)), Alphabet(config.alphabet))


def fitted(start: Start, fresh: dict[str, Tensor], alphabet: Alphabet) -> dict[str, Tensor]:
    """Returns the weights with classes for another alphabet: letters of both keep theirs, new ones get fresh ones.

    Args:
        start: The old weights and alphabet.
        fresh: State of a new network for `alphabet`.
        alphabet: The characters to read from now on.

    Raises:
        DataError: Another version of this project built the old network.
    """
    weights = dict(start.weights)
    if _shapes(weights) != _shapes(fresh):
        raise DataError(f"{start.uri} holds another network than this version trains; train from the start")
    if start.alphabet == alphabet:
        return weights
    common = [c for c in alphabet.characters if not start.alphabet.unknown(c)]
    new = torch.tensor([BLANK, *alphabet.encode("".join(common))])
    old = torch.tensor([BLANK, *start.alphabet.encode("".join(common))])
    for name in weights:
        layer, _, kind = name.rpartition(".")
        if layer in CLASS_LAYERS:
            # A head of stacked time steps has all classes for the first of them, then for the second, and so on.
            before = weights[name].unflatten(0, (-1, start.alphabet.classes))
            grown = fresh[name].unflatten(0, (-1, alphabet.classes)).clone()
            if kind == "bias":
                grown[:] = before.min() - RARE
            grown[:, new] = before[:, old]
            weights[name] = grown.flatten(0, 1)
    return weights


def _shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    """Returns the shapes of all weights, of those by class without the classes, which depend on the alphabet."""
    return {name: weight.shape[1:] if name.rpartition(".")[0] in CLASS_LAYERS else weight.shape
            for name, weight in weights.items()}
