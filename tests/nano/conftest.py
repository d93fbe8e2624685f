"""The nano model's scripts are examples, not part of the package: put their folder on the path."""

import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "nano"))
