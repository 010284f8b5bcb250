"""The steps of the pipeline: one KFP component a module, each a thin adapter to the handwriting package."""
