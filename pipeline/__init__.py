"""How the steps are wired and started: the pipeline, its compiler, the command line, the run on one machine."""
