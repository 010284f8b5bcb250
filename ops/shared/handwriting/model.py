"""The network: convolutional features, bidirectional LSTM, CTC; with a shortcut past the LSTM."""

import torch
from torch import Tensor, nn

from handwriting.hyperparameters import ModelConfig

ROWS = 16  # px of height that become one row of features
CLASS_LAYERS = ("head", "shortcut")  # layers of CRNN whose outputs are the classes
GLANCE = 64  # features that the shortcut tells classes by

# Shapes: B lines of a batch, H height and W width in px, C channels, T = W / STEP time steps, S of them as recurrent
# layers see them, K classes.


def _convolution(inputs: int, outputs: int, size: int | tuple[int, int], stride: int | tuple[int, int] = 1,
                 padding: int = 0) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, stride, padding, bias=False), nn.BatchNorm2d(outputs),
                         nn.ReLU(inplace=True))


def _by_step(features_BC1T: Tensor) -> Tensor:
    """Returns [B, T, C] of a single row of features; they lie in memory like that (channels-last)."""
    return features_BC1T.squeeze(2).transpose(1, 2)


class _Residual(nn.Module):
    """A convolution beside its own input (He et al., CVPR 2016)."""

    def __init__(self, channels: int, size: tuple[int, int]):
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, size, padding=(size[0] // 2, size[1] // 2), bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, features_BCHW: Tensor) -> Tensor:
        return torch.relu(features_BCHW + self.norm(self.convolution(features_BCHW)))


class Dropout(nn.Module):
    """Drops features while training, as its own seed says: copies of a network that learn in parallel can be repeated.

    A byte of a random number decides on a feature: half the time of nn.Dropout, which draws a number for each.
    """

    def __init__(self, share: float):
        super().__init__()
        self.dropped = round(256 * share)
        self.generator: torch.Generator | None = None

    def forward(self, features: Tensor) -> Tensor:
        if not self.training or not self.dropped:
            return features
        numbers = torch.empty(features.numel() // 8 + 1, dtype=torch.int64, device=features.device)
        numbers.random_(-2**63, None, generator=self.generator)
        random = numbers.view(torch.uint8)[:features.numel()].view(features.shape)
        return features * ((random >= self.dropped).to(features.dtype) * (256 / (256 - self.dropped)))


class CRNN(nn.Module):
    """Reads lines into class scores by time step.

    LSTM instead of the tutorial's GRU: PyTorch's CPU GRU is unrolled step by step and slower.

    Args:
        config: Size of the network.
        classes: Characters of the alphabet and the blank.
        height: Of the lines, px, a multiple of 16.
    """

    def __init__(self, config: ModelConfig, classes: int, height: int):
        super().__init__()
        first, second, third, fourth = config.stages
        # Strides instead of pooling, and from the first layer on: convolutions at full resolution would cost as much as
        # all the rest.
        self.features = nn.Sequential(
            _convolution(1, first, 5, 2, 2), _convolution(first, second, 3, 2, 1),
            _convolution(second, third, 3, (2, 1), 1), _Residual(third, (3, 3)),
            _convolution(third, fourth, 3, (2, 1), 1), _Residual(fourth, (3, 3)))
        # The rows are joined, not pooled: marks above and below a letter are told apart by where they stand. A wide
        # look to both sides then lets the shortcut see whole letters, without which learning takes off slowly.
        self.columns = nn.Sequential(_convolution(fourth, config.columns, (height // ROWS, 1)),
                                     _Residual(config.columns, (1, 5)))
        self.dropout = Dropout(config.dropout)
        # After Sak et al., "Fast and accurate recurrent neural network acoustic models for speech recognition",
        # Interspeech 2015: the recurrent layers see several time steps as one, and the head tells each one's classes.
        self.stack = config.stack
        inputs = [config.stack * config.columns, *[config.hidden] * (config.layers - 1)]
        self.recurrent = nn.ModuleList(nn.LSTM(size, config.hidden, bidirectional=True, batch_first=True)
                                       for size in inputs)
        self.head = nn.Linear(config.hidden, config.stack * classes)
        # After Retsinas et al., "Best practices for a handwritten text recognition system", DAS 2022: a CTC head on
        # the columns makes the features learn long before the recurrent layers do. Here the recurrent head also starts
        # from its scores, instead of finding them again. Classes are told by a few features: straight from columns to
        # both sides, they would take a twelfth of a step.
        self.glance = nn.Conv2d(config.columns, GLANCE, (1, 5), padding=(0, 2), bias=False)
        self.shortcut = nn.Linear(GLANCE, classes)

    def seed_dropout(self, seed: int) -> None:
        """Decides what the next steps drop."""
        device = self.head.weight.device
        if device.type == "cuda":  # a CUDA graph knows no other generator than the device's own
            torch.cuda.default_generators[device.index or 0].manual_seed(seed)
            return
        if self.dropout.generator is None:
            self.dropout.generator = torch.Generator(device)
        self.dropout.generator.manual_seed(seed)

    def forward(self, images_B1HW: Tensor) -> Tensor:
        """Reads float images, paper 0 and ink 1, into log-probabilities float32 [B, T, K]."""
        return self.forward_with_shortcut(images_B1HW)[0]

    def forward_with_shortcut(self, images_B1HW: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the log-probabilities [B, T, K] of the head and of the shortcut, for training."""
        columns_BC1T = self.columns(self.features(images_B1HW))
        shortcut_BTK = self.shortcut(_by_step(self.glance(columns_BC1T)))
        states_BSC = self.dropout(self._stacked(_by_step(columns_BC1T)))
        for layer in self.recurrent:
            # Added up, after Amodei et al., "Deep Speech 2", ICML 2016: side by side the next layer has twice to read.
            onward_BSC, backward_BSC = layer(states_BSC)[0].chunk(2, dim=2)
            states_BSC = self.dropout(onward_BSC + backward_BSC)
        batch, steps, classes = shortcut_BTK.shape
        context_BTK = self.head(states_BSC).reshape(batch, -1, classes)[:, :steps]
        logits_BTK = context_BTK + shortcut_BTK  # what the context adds to what each column shows
        return logits_BTK.float().log_softmax(dim=2), shortcut_BTK.float().log_softmax(dim=2)

    def _stacked(self, columns_BTC: Tensor) -> Tensor:
        """Joins neighbouring time steps, the last ones with zeros: [B, S, stack * C], S = T / stack rounded up."""
        batch, steps, channels = columns_BTC.shape
        padded_BTC = nn.functional.pad(columns_BTC, (0, 0, 0, -steps % self.stack))
        return padded_BTC.reshape(batch, -1, self.stack * channels)


class Heads(nn.Module):
    """The network with both heads as its output, since DDP sees nothing but calls of a module."""

    def __init__(self, model: CRNN):
        super().__init__()
        self.model = model

    def forward(self, images_B1HW: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.forward_with_shortcut(images_B1HW)
