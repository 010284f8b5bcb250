"""The tutorial's training, written plainly after its description: what `python -m pipeline bench` compares with.

It reads each picture anew in each epoch, pads in colour, trains in float32 without shuffling, takes the padded width as
the length of every line, and scores every training batch with difflib. Nothing else uses it.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from handwriting.alphabet import VIETNAMESE

HEIGHT = 64
BLANK, FIRST = 0, 3  # ids: 0 padding and blank, 1 start, 2 end, then the characters
BATCH, WORKERS, INNER = 32, 4, 128

Item = tuple[Path, str]


class ReferenceNetwork(nn.Module):
    """VGG-like features, one bidirectional GRU."""

    def __init__(self, classes: int = FIRST + len(VIETNAMESE), inner: int = INNER):
        super().__init__()
        first, second, third = inner // 8, inner // 4, inner // 2
        self.features = nn.Sequential(
            nn.Conv2d(3, first, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(first, second, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(second, third, 3, padding=1), nn.ReLU(), nn.Conv2d(third, third, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d((2, 1)),
            nn.Conv2d(third, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(),
            nn.Conv2d(inner, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(), nn.MaxPool2d((2, 1)),
            nn.Conv2d(inner, inner, 2), nn.ReLU(), nn.AdaptiveAvgPool2d((1, None)))
        self.recurrent = nn.GRU(inner, 2 * inner, bidirectional=True, batch_first=True)
        self.inner, self.head = nn.Linear(4 * inner, 2 * inner), nn.Linear(2 * inner, classes)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Returns log-probabilities [T, B, K]."""
        states, _ = self.recurrent(self.features(images_B3HW).squeeze(2).transpose(1, 2))
        return self.head(self.inner(states)).log_softmax(dim=2).transpose(0, 1)


class ReferenceLines(TorchDataset):
    """Pictures and their texts."""

    def __init__(self, items: Sequence[Item]):
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[np.ndarray, str]:
        path, text = self.items[index]
        picture = cv2.imread(str(path))
        assert picture is not None, path
        return cv2.resize(picture, (round(picture.shape[1] * HEIGHT / picture.shape[0]), HEIGHT)) / 255, text


def train_epoch(items: Sequence[Item]) -> float:
    """Trains one epoch from new weights, as the tutorial does; returns its mean character accuracy on these lines."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = ReferenceNetwork().to(device)
    optimizer = torch.optim.Adam(network.parameters())
    accuracies: list[float] = []
    for images, texts in DataLoader(ReferenceLines(items), BATCH, num_workers=WORKERS, collate_fn=_collate):
        log_probs_TBK = network(images.to(device))
        ids = [[FIRST + VIETNAMESE.index(c) for c in text if c in VIETNAMESE] for text in texts]
        loss = nn.functional.ctc_loss(
            log_probs_TBK, torch.tensor(sum(ids, [])), torch.full((len(ids),), len(log_probs_TBK)),
            torch.tensor([len(row) for row in ids]), blank=BLANK, zero_infinity=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        accuracies += map(_accuracy, texts, decode(log_probs_TBK))
    return float(np.mean(accuracies))


def _collate(items: Sequence[tuple[np.ndarray, str]]) -> tuple[Tensor, list[str]]:
    """Pads to the widest with white."""
    widest = max(picture.shape[1] for picture, _ in items)
    images = np.ones((len(items), HEIGHT, widest, 3))
    for image, (picture, _) in zip(images, items):
        image[:, :picture.shape[1]] = picture
    return torch.from_numpy(images).permute(0, 3, 1, 2).float(), [text for _, text in items]


def decode(log_probs_TBK: Tensor) -> list[str]:
    readings = []
    for best in log_probs_TBK.argmax(dim=2).T.tolist():
        merged = [a for a, b in zip(best, [BLANK, *best]) if a != b]
        readings.append("".join(VIETNAMESE[i - FIRST] for i in merged if i >= FIRST))
    return readings


def _accuracy(truth: str, reading: str) -> float:
    """The harmonic mean of matched / len(truth) and matched / len(reading)."""
    matched = sum(block.size for block in difflib.SequenceMatcher(None, truth, reading).get_matching_blocks())
    return 2 * matched / (len(truth) + len(reading)) if truth or reading else 1.0
