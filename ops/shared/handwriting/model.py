"""The network: convolutional features, bidirectional LSTM, CTC; with a shortcut past the LSTM."""

from dataclasses import dataclass

from torch import Tensor, nn

from handwriting.errors import ConfigError

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

    channels: tuple[int, int, int, int] = (32, 64, 128, 192)
    hidden: int = 192
    layers: int = 2
    dropout: float = 0.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(int(c) for c in self.channels))  # JSON gives lists
        if len(self.channels) != 4 or min(self.channels) < 1:
            raise ConfigError(f"channels {self.channels}: give four positive numbers")
        if self.hidden < 1 or not 1 <= self.layers <= 8 or not 0 <= self.dropout < 1:
            raise ConfigError(f"network size out of range: {self}")


def _stage(inputs: int, outputs: int, convolutions: int, pool: tuple[int, int] | None) -> nn.Sequential:
    """VGG-like stage: 3x3 convolutions with batch normalisation and ReLU, then max-pooling."""
    parts: list[nn.Module] = []
    for i in range(convolutions):
        parts += [nn.Conv2d(inputs if i == 0 else outputs, outputs, 3, padding=1, bias=False),
                  nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts, *([nn.MaxPool2d(pool)] if pool else []))


class CRNN(nn.Module):
    """Reads lines into class scores by time step.

    LSTM instead of the tutorial's GRU: PyTorch's CPU GRU is unrolled step by step and slower.
    """

    def __init__(self, config: ModelConfig, classes: int):
        super().__init__()
        first, second, third, fourth = config.channels
        self.features = nn.Sequential(
            # the stem halves at once: full-resolution convolutions would cost as much as all the rest
            nn.Conv2d(1, first, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(first), nn.ReLU(inplace=True),
            _stage(first, second, 1, (2, 2)),
            _stage(second, third, 1, (2, 1)),
            _stage(third, fourth, 2, None))
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
