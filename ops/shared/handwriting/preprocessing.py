"""From Label Studio to a packed dataset: export, select, write `labels.json`, pack."""

import json
import logging
from collections import Counter
from collections.abc import Sequence

from handwriting.dataset import SPLITS
from handwriting.errors import DataError
from handwriting.label_studio import LabelStudio
from handwriting.labels import BUCKET_SPLITS, Label, LabelConfig, select_labels
from handwriting.packing import LABELS, PackConfig, Packed, pack
from handwriting.store import Store, open_store

log = logging.getLogger(__name__)


def preprocess(client: LabelStudio, project: int, data_uri: str, datasets_uri: str, label_config: LabelConfig,
               pack_config: PackConfig, sync: bool = False) -> Packed:
    """Exports a project and packs it.

    Args:
        client: The Label Studio to ask.
        project: Number of the project.
        data_uri: `s3://bucket/prefix` that holds `train/images/` and so on, as the tasks name it.
        datasets_uri: Where datasets live.
        label_config: Names of the label interface and bounds of texts.
        pack_config: Bounds of pictures, alphabet, threshold of rejects.
        sync: First lets Label Studio look for new pictures in its source storages.

    Raises:
        LabelStudioError: The export fails.
        DataError: The project holds no label, a split is empty, or too much was rejected.
        StoreError: The bucket fails.
    """
    if sync:
        log.info("synced %d source storages", client.sync_storages(project))
    tasks = client.export(project)
    data = open_store(data_uri)
    labels, rejects = select_labels(tasks, data.root, label_config)
    log.info("exported %d tasks of project %d: %d labels, %d rejected", len(tasks), project, len(labels), len(rejects))
    if not tasks:
        raise DataError(f"project {project} of {client.url} has no labelled task; label some pictures first")
    packed = pack(labels, rejects, data_uri, datasets_uri, pack_config)
    _check_splits(packed, data_uri)
    _write_labels(data, labels)
    return packed


def _check_splits(packed: Packed, data_uri: str) -> None:
    """Stops before training what could not be validated or tested."""
    empty = [split for split in SPLITS if not packed.splits[split]]
    if empty:
        raise DataError(f"no usable line in {' and '.join(empty)} (there are {packed.splits}); put pictures under "
                        f"{data_uri}/{{{','.join(empty)}}}/images/ and label them")


def _write_labels(data: Store, labels: Sequence[Label]) -> None:
    """Writes the tutorial's `labels.json` of each split, where it changed."""
    counts = Counter(label.split for label in labels)
    for split in BUCKET_SPLITS:
        texts = {label.name: label.text for label in sorted(labels) if label.split == split}
        content = json.dumps(texts, ensure_ascii=False, indent=1).encode()
        key = f"{split}/{LABELS}"
        if counts[split] and not (data.exists(key) and data.read(key) == content):
            data.write(key, content)
