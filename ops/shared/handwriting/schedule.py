"""How far a run of training is, and what depends on it: rate, augmentation, the shortcut's loss, the end."""

import logging
from typing import Any

from handwriting.hyperparameters import TrainConfig

log = logging.getLogger(__name__)

FLAT_STEPS, FLAT_SHARE = 64, 0.05  # steps, and share of the run, that the flat start takes at most
CALM, FULL = 0.02, 0.2  # shares of the run between which augmentation grows from nothing to its strength
SHORTCUT_SHARE = 0.3  # share of the run after which the shortcut needs no loss of its own: features are learnt by then
COOLDOWN = 0.4  # share of the run, at its end, in which the learning rate falls


class Schedule:
    """The way of one run from its first step to its end.

    Args:
        config: How long the run may be: epochs or minutes, whichever end first.

    Attributes:
        step: Steps made.
        passes: Epochs made, with the share of the one that is under way.
        seconds: Time taken, s.
        flat_steps: Steps that the flat start takes; 0 for weights that know where letters stand.
    """

    def __init__(self, config: TrainConfig):
        self.config = config
        self.step, self.passes, self.seconds, self.flat_steps = 0, 0.0, 0.0, FLAT_STEPS
        self._pace = 1.0  # how many times progress counts
        self._fell_after = 0  # the epoch after which the rate fell; 0: it does not yet

    @property
    def epochs(self) -> int:
        """Epochs that the run takes at most."""
        return round(self.config.epochs / self._pace)

    def progress(self, epoch: int | None = None) -> float:
        """Returns how much of the run is over, 0 to 1: by epochs, or by the clock where a limit comes first.

        Args:
            epoch: Whose begin is meant, from 1; None for now.
        """
        passes = self.passes if epoch is None else epoch - 1
        limit = 60 * self.config.minutes
        return self._pace * max(passes / self.config.epochs, self.seconds / limit if limit else 0.0)

    def advance(self, passes: float) -> None:
        """Goes on by a step, after which so many epochs are made."""
        self.step += 1
        self.passes = passes

    def learning_rate(self) -> float:
        """Returns the rate of the next step: it stays, then falls in a straight line.

        (Hägele et al., NeurIPS 2024: a cooldown.) Half a cosine reads worse: nothing is gained in its last third. There
        is no rise before it: with a low rate at first the network learns to read nothing but blanks, and took five
        times as long to leave that.
        """
        return self.config.learning_rate * max(1e-3, min(1.0, (1 - self.progress()) / COOLDOWN))

    def augmentation(self, epoch: int) -> float:
        """Returns the strength of augmentation in an epoch, 0 to 1: it grows with the run."""
        return self.config.augmentation * min(1.0, max(0.0, (self.progress(epoch) - CALM) / (FULL - CALM)))

    def flat(self) -> bool:
        """Says whether the next step belongs to the flat start."""
        return self.step < self.flat_steps and self.progress() < FLAT_SHARE

    def shortcut(self) -> bool:
        """Says whether the shortcut has a loss of its own in the next step."""
        return self.progress() < SHORTCUT_SHARE

    def hurry(self, epoch: int, best: int) -> bool:
        """Lets the rate fall at once where nothing gets better, and says whether it did; notes when the fall begins.

        A network reads better once its rate falls, also one that no longer does at its full rate: its run skips what
        is left of that, and the fall takes its share of what the run has become.

        Args:
            epoch: The last one, from 1.
            best: The one with the lowest validation CER.
        """
        progress = self.progress()
        early = progress < 1 - COOLDOWN
        if self._fell_after or (early and epoch - best < self.config.patience):
            return False
        self._fell_after = epoch
        if early:
            self._pace = (1 - COOLDOWN) / progress
            log.info("no better validation CER for %d epochs: the rate falls now, until epoch %d at most",
                     self.config.patience, round(epoch / (1 - COOLDOWN)))
        return early

    def ended(self, epoch: int, best: int) -> bool:
        """Says whether the run is over, after an epoch as for `hurry`: patience starts anew when the rate falls."""
        if self._fell_after and epoch - max(best, self._fell_after) >= self.config.patience:
            log.info("stopped: no better validation CER for %d epochs", self.config.patience)
            return True
        return self.progress() >= 1

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        return {"step": self.step, "passes": self.passes, "seconds": self.seconds, "pace": self._pace,
                "fell_after": self._fell_after}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint.

        Raises:
            LookupError: It lacks something.
        """
        self.step, self.passes, self.seconds = state["step"], state["passes"], state["seconds"]
        self._pace, self._fell_after = state["pace"], state["fell_after"]
