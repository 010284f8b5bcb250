"""Says whether a run has anything to learn: a dataset that is not the one which the serving model was trained on."""

from typing import NamedTuple

from handwriting.bundle import find_champion, read_config
from handwriting.store import open_store


class News(NamedTuple):
    """Whether there is something to learn, and why."""

    new: bool
    reason: str


def anything_new(dataset: str, models_uri: str, force: bool = False) -> News:
    """Compares a dataset with the champion's; their names are hashes of what they hold.

    Args:
        dataset: URI of the dataset.
        models_uri: Root of all models.
        force: Go on in any case.

    Raises:
        DataError: The champion is of another version of this project.
    """
    champion = find_champion(models_uri)
    if not champion:
        return News(True, "no model serves yet")
    known, found = read_config(open_store(champion)).dataset, dataset.rstrip("/").rpartition("/")[2]
    if known != found:
        return News(True, f"dataset {found} is not the one that {champion} was trained on ({known})")
    if force:
        return News(True, f"nothing new: dataset {found} is what {champion} was trained on; going on all the same")
    return News(False, f"nothing new, nothing done: dataset {found} is what {champion} was trained on")
