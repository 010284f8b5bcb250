"""What a trained network becomes: weights, ONNX in float and in 8 bits, language model, metrics and profile."""

import logging
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from safetensors.torch import save_file

from handwriting.alphabet import Alphabet
from handwriting.bundle import LANGUAGE_MODEL, METRICS, ONNX, WEIGHTS
from handwriting.ctc import STEP
from handwriting.dataset import Dataset
from handwriting.epochs import Trained
from handwriting.errors import DataError
from handwriting.fusion import best_fusion
from handwriting.hyperparameters import ModelConfig
from handwriting.language_model import LanguageModel
from handwriting.model import CRNN
from handwriting.profile import PROFILE
from handwriting.profiling import profile_of
from handwriting.quantization import quantize
from handwriting.store import open_store, write_json
from handwriting.training import Trainer

log = logging.getLogger(__name__)

SAMPLES = 128  # training lines that show the range of the network's features
CHECKED_LINES = 150  # validation lines that the 8-bit network must read as well as the exact one
FUSION_LINES = 150  # validation lines that decide how much the language model counts
SAME = 1e-3  # log-probabilities of PyTorch and ONNX Runtime may differ by float32 rounding, no more


def fit_language_model(trainer: Trainer) -> LanguageModel:
    """Learns a language model from the training labels, and from validation lines how much it should count.

    Args:
        trainer: Has finished its run.
    """
    model = LanguageModel.of_texts((line.text for line in trainer.training_lines.lines), trainer.alphabet.classes)
    lines = trainer.validation_lines[:FUSION_LINES]  # in order of their digests, so a random part
    samples = trainer.read(lines, lambda line, log_probs: log_probs.copy())
    model.fusion = best_fusion([(line.text, log_probs) for line, log_probs in samples], trainer.alphabet, model)
    log.info("language model: %d n-grams of up to %d characters, weight %.1f", len(model.grams), model.order,
             model.fusion.weight)
    return model


def export(trained: Trained, dataset: Dataset, model_config: ModelConfig, language_model: LanguageModel,
           folder: Path) -> None:
    """Writes weights, ONNX, language model, metrics, profile into `folder`, and checks the ONNX against PyTorch.

    Raises:
        DataError: The two disagree.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file(trained.weights, folder / WEIGHTS)
    (folder / LANGUAGE_MODEL).write_bytes(language_model.to_json())
    alphabet, height = Alphabet(dataset.manifest.alphabet), dataset.manifest.image.height
    model = CRNN(model_config, alphabet.classes, height)
    model.load_state_dict(trained.weights)
    _export_onnx(model.eval(), height, folder / ONNX)
    lines = dataset.lines("validation")[:CHECKED_LINES]
    samples = dataset.lines("train")[:SAMPLES]
    quantize(folder / ONNX, [dataset.pixels(line) for line in samples], [dataset.pixels(line) for line in lines],
             [line.text for line in lines], alphabet, dataset.manifest.image.squeeze)
    metrics = {"best_epoch": trained.best.number, **trained.best.scores.as_dict(),
               "epochs": [epoch.metrics() for epoch in trained.history]}
    bundle = open_store(str(folder))
    write_json(bundle, METRICS, metrics)
    write_json(bundle, PROFILE, profile_of(dataset, folder / ONNX, language_model))


def _export_onnx(model: CRNN, height: int, path: Path) -> None:
    example = torch.zeros(1, 1, height, 64 * STEP)
    with warnings.catch_warnings():
        # The exporter of TorchScript: the newer one needs onnxscript in every train pod and gives no better file.
        # Its warning on batch sizes does not hold where the LSTM makes its own initial state; checked below.
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (example,), str(path), dynamo=False, opset_version=17, input_names=["images"],
                          output_names=["log_probs"],
                          dynamic_axes={"images": {0: "lines", 3: "width"}, "log_probs": {0: "lines", 1: "steps"}})
    _check_onnx(model, height, path)


@torch.inference_mode()
def _check_onnx(model: CRNN, height: int, path: Path) -> None:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in ((1, 1, height, 24 * STEP), (3, 1, height, 151 * STEP)):
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        difference = np.abs(session.run(None, {"images": images.numpy()})[0] - model(images).numpy()).max()
        if not difference < SAME:
            raise DataError(f"the exported ONNX differs from PyTorch by {difference} on {shape}; "
                            "report it with the versions of torch and onnxruntime")
