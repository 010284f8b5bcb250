"""Where things lie in the bucket."""

DATA = "data"  # {train,validation,test,user_data}/images/* and labels.json
DATASETS = "datasets"  # <id>/: packed, never changed
MODELS = "models"  # <version>/: bundles, never changed; current.json names the one that serves
RUNS = "runs"  # <id>/: checkpoint and result of a training run
