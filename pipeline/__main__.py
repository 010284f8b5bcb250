"""`python -m pipeline`: every step alone, and the whole loop on this machine."""

import sys

from pipeline.cli import main

sys.exit(main())
