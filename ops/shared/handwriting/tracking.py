"""Logs a run to Comet: online where COMET_API_KEY is set, else into an offline archive that can be uploaded later."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

log = logging.getLogger(__name__)

PROJECT = "ocr"  # the tutorial's project


class Comet:
    """One Comet experiment, as a context manager.

    Args:
        folder: Where an offline archive is put.
        parameters: Hyperparameters to log.
    """

    def __init__(self, folder: Path, parameters: Mapping[str, Any]):
        self.folder, self.parameters = folder, parameters

    def __enter__(self) -> "Comet":
        os.environ.setdefault("COMET_ERROR_TRACKING_ENABLE", "false")  # it would call a third party, even offline
        import comet_ml  # here, not above: its import takes seconds and starts threads

        online = bool(os.environ.get("COMET_API_KEY"))
        self.folder.mkdir(parents=True, exist_ok=True)
        config = comet_ml.ExperimentConfig(
            offline_directory=str(self.folder), log_code=False, log_graph=False, auto_param_logging=False,
            auto_metric_logging=False, parse_args=False, log_env_details=False, log_git_metadata=False,
            log_git_patch=False, display_summary_level=0, auto_output_logging="")
        self.experiment = comet_ml.start(project_name=os.environ.get("COMET_PROJECT_NAME", PROJECT), online=online,
                                         experiment_config=config)
        self.experiment.log_parameters(dict(self.parameters))
        log.info("logging to Comet, %s", "online" if online else f"offline in {self.folder}")
        return self

    def log_epoch(self, number: int, metrics: Mapping[str, float]) -> None:
        """Logs the numbers of one epoch, counted from 1."""
        self.experiment.log_metrics(dict(metrics), step=number, epoch=number)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.experiment.end()
