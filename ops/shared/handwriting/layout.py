"""Names that several parts agree on: where things lie in the bucket, and what requests to the predictor carry."""

DATA = "data"  # {train,validation,test,user_data}/images/* and labels.json
DATASETS = "datasets"  # <id>/: packed, never changed
USER_PICTURES, READINGS = "user_data/images", "user_data/readings"  # of data/: NAME.png from users, NAME.json beside
CORRECTION = "correction"  # in such a JSON: what a user says that the picture shows
MODELS = "models"  # <version>/: bundles, never changed; current.json names the one that serves
RUNS = "runs"  # <id>/: checkpoint and result of a training run
TUNING = "tuning"  # models/ and runs/ of a search's trials
CODE = "code"  # models/<version>/code/<digest>/: a predictor, and what it needs
WHEELS = "wheels"  # models/<version>/wheels/<target>/: what a predictor installs

MODEL_NAME = "handwriting"  # the model's name in KServe's protocols, unless another is given
VERSION_VARIABLE = "MODEL_VERSION"  # the release: which version of the model, served by which code
LANGUAGE_MODEL_VARIABLE = "LANGUAGE_MODEL"  # not empty: the predictor reads with the bundle's language model
BACKEND_PASSWORD = "ML_BACKEND_PASSWORD"  # where it is set, Label Studio must send it by Basic Auth, with any user
TOKEN = "HANDWRITING_TOKEN"  # where it is set, all but probes, metrics, page and document want it as bearer token
TOKEN_SECRET = "handwriting-predictor-token"  # its Kubernetes secret, which may be absent
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # where several workers write their metrics, for each to show them all
FIELD = "file"  # of a multipart request: the picture
SPOOL_VARIABLE = "SPOOL"  # the predictor's folder for pictures that wait for the bucket
KEEP_SHARE_VARIABLE = "KEEP_SHARE"  # of the pictures that users send, 0 to 1
KEEP_HEADER = "X-Keep-Picture"  # "no" in a request: the picture is read, not stored
VERSION_HEADER = "X-Model-Version"  # of every answer
