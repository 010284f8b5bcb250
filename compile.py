"""Writes the pipeline spec that Kubeflow Pipelines takes: `python compile.py`."""

import argparse
from pathlib import Path

from pipeline.compiling import compile_pipeline

BUILD = Path(__file__).resolve().parent / "build"


def main() -> None:
    """Compiles into a folder and says what to do next."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=BUILD, help="folder to write to (default: build beside this file)")
    path = parser.parse_args().out / "pipeline.yaml"
    sizes = compile_pipeline(path)
    for component, size in sizes.items():
        print(f"{component:12} {size / 1024:5.1f} KiB of source")
    print(f"\nWrote {path}. Next: upload it in the Kubeflow Pipelines UI (Pipelines, Upload pipeline), or\n"
          "  kfp pipeline create -p handwriting " + str(path))


if __name__ == "__main__":
    main()
