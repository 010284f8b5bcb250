"""The 8-bit network takes the place of the exact one where it reads as well, and never where it does not."""

import shutil

import numpy as np
import onnx
import pytest

from handwriting import quantization
from handwriting.alphabet import Alphabet
from handwriting.bundle import ONNX
from handwriting.quantization import quantize
from handwriting.reader import Reader


@pytest.fixture
def exact(tmp_path):
    """The file of a network in float32 of 3 classes: convolutions and an LSTM."""
    import torch

    class Tiny(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.lstm, self.head = torch.nn.LSTM(64, 32, batch_first=True, bidirectional=True), torch.nn.Linear(64, 3)
            self.stem, self.convolution = torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.Conv2d(8, 4, (16, 4), (16, 4))
            self.columns = torch.nn.Conv1d(4, 64, 1)

        def forward(self, images):
            columns = self.columns(self.convolution(self.stem(images)).squeeze(2)).transpose(1, 2)
            return self.head(self.lstm(columns)[0]).log_softmax(2)

    path = tmp_path / ONNX
    with pytest.warns():
        torch.onnx.export(Tiny().eval(), (torch.zeros(1, 1, 16, 64),), str(path), dynamo=False, opset_version=17,
                          input_names=["images"], dynamic_axes={"images": {0: "lines", 3: "width"}})
    return path


@pytest.fixture
def lines():
    return [np.random.default_rng(seed).integers(0, 256, (16, 80), dtype=np.uint8) for seed in range(4)]


def test_a_network_that_reads_as_well_is_replaced_by_a_smaller_one(exact, lines):
    before = exact.stat().st_size
    assert quantize(exact, lines, lines, ["ab"] * 4, Alphabet("ab"))
    assert exact.stat().st_size < before and not list(exact.parent.glob("*.int8"))


def test_one_that_reads_worse_is_not_taken(exact, lines, monkeypatch, caplog):
    before = exact.read_bytes()
    cers = {exact: 0.1, exact.with_suffix(".int8"): 0.11}
    monkeypatch.setattr(quantization, "_cer", lambda path, *rest: cers[path])
    assert not quantize(exact, lines, lines, ["ab"] * 4, Alphabet("ab"))
    assert exact.read_bytes() == before and not list(exact.parent.glob("*.int8"))
    assert "keeping that" in caplog.text


def test_a_bundle_has_8_bits_all_but_in_its_first_layer(tiny_bundle, tmp_path):
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    nodes = onnx.load(folder / ONNX).graph.node
    makers = {output: node.op_type for node in nodes for output in node.output}
    weights = [makers.get(node.input[1]) for node in nodes if node.op_type == "Conv"]
    assert weights[0] is None and set(weights[1:]) == {"DequantizeLinear"} and len(weights) > 5
    assert {"DynamicQuantizeLSTM", "MatMulInteger"} < set(makers.values())
    assert not {"LSTM", "MatMul", "Gemm"} & set(makers.values())
    assert Reader.load(folder).read_pixels(np.full((64, 64), 255, np.uint8)).text is not None
