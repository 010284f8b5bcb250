"""The network: convolutional features, bidirectional LSTM, CTC; with a shortcut past the LSTM."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from handwriting.errors import ConfigError

CLASS_LAYERS = ("head", "shortcut")  # layers of CRNN whose outputs are the classes

# Shapes: B lines of a batch, H height and W width in px, C channels, T = W / STEP time steps, K classes.


@dataclass(frozen=True)
class ModelConfig:
    """Size of the network.

    Attributes:
        channels: Channels of the four convolution stages.
        hidden: Units of each direction of each recurrent layer.
        layers: Recurrent layers.
        dropout: Share of features dropped before, between and after the recurrent layers while training, 0 to below 1.
    """

    channels: tuple[int, int, int, int] = (24, 48, 96, 128)
    hidden: int = 192
    layers: int = 2
    dropout: float = 0.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(int(c) for c in self.channels))  # JSON gives lists
        if len(self.channels) != 4 or min(self.channels) < 1:
            raise ConfigError(f"channels {self.channels}: give four positive numbers")
        if self.hidden < 1 or not 1 <= self.layers <= 8 or not 0 <= self.dropout < 1:
            raise ConfigError(f"network size out of range: {self}")


def _convolution(inputs: int, outputs: int, size: int, stride: int | tuple[int, int]) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs),
                         nn.ReLU(inplace=True))


class _Residual(nn.Module):
    """A 3x3 convolution beside its own input (He et al., CVPR 2016)."""

    def __init__(self, channels: int):
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, features_BCHW: Tensor) -> Tensor:
        return torch.relu(features_BCHW + self.norm(self.convolution(features_BCHW)))


class CRNN(nn.Module):
    """Reads lines into class scores by time step.

    LSTM instead of the tutorial's GRU: PyTorch's CPU GRU is unrolled step by step and slower.
    """

    def __init__(self, config: ModelConfig, classes: int):
        super().__init__()
        first, second, third, fourth = config.channels
        # Strides instead of pooling, and from the first layer on: convolutions at full resolution would cost as much as
        # all the rest.
        self.features = nn.Sequential(
            _convolution(1, first, 5, 2), _convolution(first, second, 3, 2),
            _convolution(second, third, 3, (2, 1)), _Residual(third),
            _convolution(third, fourth, 3, (2, 1)), _Residual(fourth))
        self.dropout = nn.Dropout(config.dropout)
        self.recurrent = nn.LSTM(fourth, config.hidden, config.layers, bidirectional=True, batch_first=True,
                                 dropout=config.dropout if config.layers > 1 else 0.0)
        self.head = nn.Linear(2 * config.hidden, classes)
        # After Retsinas et al., "Best practices for a handwritten text recognition system", DAS 2022: a CTC head on
        # the columns makes the features learn long before the recurrent layers do. Here the recurrent head also starts
        # from its scores, instead of finding them again.
        self.shortcut = nn.Conv1d(fourth, classes, 3, padding=1)

    def columns(self, images_B1HW: Tensor) -> Tensor:
        """Returns features [B, C, T]: the strongest response of each column, whatever its height."""
        return self.features(images_B1HW).amax(dim=2)

    def forward(self, images_B1HW: Tensor) -> Tensor:
        """Reads float images, paper 0 and ink 1, into log-probabilities float32 [B, T, K]."""
        columns_BCT = self.columns(images_B1HW)
        return self._read(columns_BCT, self._shortcut(columns_BCT)).float().log_softmax(dim=2)

    def forward_with_shortcut(self, images_B1HW: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the log-probabilities [B, T, K] of the head and of the shortcut, for training."""
        columns_BCT = self.columns(images_B1HW)
        shortcut_BTK = self._shortcut(columns_BCT)
        logits_BTK = self._read(columns_BCT, shortcut_BTK)
        return logits_BTK.float().log_softmax(dim=2), shortcut_BTK.float().log_softmax(dim=2)

    def _shortcut(self, columns_BCT: Tensor) -> Tensor:
        return self.shortcut(columns_BCT).transpose(1, 2)

    def _read(self, columns_BCT: Tensor, shortcut_BTK: Tensor) -> Tensor:
        """Adds what the recurrent layers know of the context to what each column shows."""
        states, _ = self.recurrent(self.dropout(columns_BCT.transpose(1, 2)))
        return self.head(self.dropout(states)) + shortcut_BTK
