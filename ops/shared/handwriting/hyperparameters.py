"""The numbers that shape a network and its training: default, valid range, and the range worth searching of each.

Needs neither torch nor numpy, so that what compiles a pipeline can read it too.
"""

from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from handwriting.errors import ConfigError


class Search(NamedTuple):
    """A range to search.

    Attributes:
        low: Lowest value.
        high: Highest value.
        step: Distance of two values; None where any value will do.
        log: Try as many values from 1 to 2 as from 2 to 4.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False


def number(default: float, low: float, high: float, search: Search | None = None) -> Any:
    """Makes a field of a config that holds a number.

    Args:
        default: Its value, which also says whether it is whole.
        low: Lowest valid value.
        high: Highest valid value.
        search: Where to look for a better one; None where that makes no sense.
    """
    return field(default=default, metadata={"valid": (low, high), "search": search})


def check(config: Any) -> None:
    """Makes sure that the numbers of a config are valid.

    Raises:
        ConfigError: One is out of its range, or not a number.
    """
    for item in fields(config):
        value = getattr(config, item.name)
        low, high = item.metadata.get("valid", (value, value))
        if not low <= value <= high:  # also refuses NaN
            raise ConfigError(f"{item.name} is {value}; give a value from {low} to {high}")


@dataclass(frozen=True)
class TrainConfig:
    """How a reader is trained.

    Attributes:
        epochs: Passes over the training lines, at most.
        batch: Lines of a step.
        learning_rate: Rate for 60 % of the run; then it falls in a straight line.
        weight_decay: Of AdamW.
        augmentation: Strength of augmentation and splicing once they have grown, 0 (none) to 1.
        patience: Epochs without a better validation CER after which the rate falls early; once it falls, the run ends.
        minutes: Time limit; the schedule is shortened to end in it. 0: no limit.
        seed: Decides weights, order and augmentation.
    """

    epochs: int = number(60, 1, 100_000)
    batch: int = number(8, 1, 4096, Search(4, 32, step=4))
    learning_rate: float = number(1e-3, 1e-7, 1.0, Search(3e-4, 3e-3, log=True))
    weight_decay: float = number(0.01, 0.0, 1.0)
    augmentation: float = number(1.0, 0.0, 1.0, Search(0.3, 1.0))
    patience: int = number(15, 1, 100_000)
    minutes: float = number(0.0, 0.0, 100_000.0)
    seed: int = number(0, 0, 2**31)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class ModelConfig:
    """Size of the network.

    Attributes:
        channels: Channels of the first of four convolution stages; the others have 2, 4 and 8 times as many.
        columns: Features of a time step, after the rows of the last stage are joined.
        hidden: Units of each direction of each recurrent layer.
        layers: Recurrent layers.
        dropout: Share of features dropped before, between and after the recurrent layers while training.
        stack: Time steps that the recurrent layers take as one: 2 take less time, where letters are wide enough.
    """

    channels: int = number(16, 1, 1024)
    columns: int = number(192, 1, 65_536)
    hidden: int = number(128, 1, 65_536, Search(64, 256, step=32))
    layers: int = number(2, 1, 8, Search(1, 3, step=1))
    dropout: float = number(0.2, 0.0, 0.99, Search(0.0, 0.5))
    stack: int = number(1, 1, 8)

    def __post_init__(self) -> None:
        if isinstance(self.channels, (list, tuple)):  # as bundles had them before
            given = tuple(self.channels)
            object.__setattr__(self, "channels", given[0] if given else 0)
            if self.stages != given:
                raise ConfigError(f"channels {given}: each stage has twice those of the one before; give the first's")
        check(self)

    @property
    def stages(self) -> tuple[int, ...]:
        """Channels of the four convolution stages."""
        return tuple(self.channels * 2**stage for stage in range(4))


def search_space() -> dict[str, tuple[type, Search]]:
    """Returns the type and the range of each number worth searching, by name."""
    return {item.name: (type(item.default), item.metadata["search"]) for config in (TrainConfig, ModelConfig)
            for item in fields(config) if item.metadata.get("search")}
