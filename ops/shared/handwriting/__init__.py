"""Everything the pipeline knows about alphabets, line images, models, buckets, Label Studio and serving.

This package is embedded whole into every pipeline step and into every model bundle, so training, evaluation and
serving run the same code.
"""
