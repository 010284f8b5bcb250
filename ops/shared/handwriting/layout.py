"""Names that several parts agree on: where things lie in the bucket, and what requests to the predictor carry."""

DATA = "data"  # {train,validation,test,user_data}/images/* and labels.json
DATASETS = "datasets"  # <id>/: packed, never changed
MODELS = "models"  # <version>/: bundles, never changed; current.json names the one that serves
RUNS = "runs"  # <id>/: checkpoint and result of a training run
TUNING = "tuning"  # models/ and runs/ of a search's trials
CODE = "code"  # models/<version>/code/<digest>/: a predictor, and what it needs
WHEELS = "wheels"  # models/<version>/wheels/<target>/: what a predictor installs

MODEL_NAME = "handwriting"  # the model's name in KServe's protocols, unless another is given
VERSION_VARIABLE = "MODEL_VERSION"  # the release: which version of the model, served by which code
LANGUAGE_MODEL_VARIABLE = "LANGUAGE_MODEL"  # not empty: the predictor reads with the bundle's language model
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # where several workers write their metrics, for each to show them all
FIELD = "file"  # of a multipart request: the picture
KEEP_HEADER = "X-Keep-Picture"  # "no" in a request: the picture is read, not stored
VERSION_HEADER = "X-Model-Version"  # of every answer
