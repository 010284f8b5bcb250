"""The one family of errors a user can act on.

A message says what went wrong, where (key, URI, task id) and what to do about it. Anything else that is raised is a
bug in this project, and keeps its stack trace.
"""


class HandwritingError(Exception):
    """Base of all errors that the command line prints as one line with exit status 1."""


class StoreError(HandwritingError):
    """A bucket or folder cannot be reached, read or written."""


class MissingError(StoreError):
    """A key, bucket or file does not exist."""


class LabelStudioError(HandwritingError):
    """Label Studio cannot be reached, refuses the token, or answers something unusable."""


class ImageError(HandwritingError):
    """A picture cannot be used as a line; `reason` is the short name it is counted under."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class AlphabetError(HandwritingError):
    """A text holds characters outside the alphabet, or the alphabet itself is not usable."""


class DataError(HandwritingError):
    """Labels, datasets or bundles are empty, damaged or do not fit each other."""


class ConfigError(HandwritingError):
    """A parameter is out of its range."""


class DeployError(HandwritingError):
    """The cluster refuses an object or cannot be reached."""


class TuneError(HandwritingError):
    """A search for hyperparameters failed."""


class TrainError(HandwritingError):
    """Training on several nodes did not come to its end."""


class PipelineError(HandwritingError):
    """Kubeflow Pipelines cannot be reached or refuses a request, or a run did not succeed."""
