"""``python -m repic_core``: the same as ``repic``."""

import sys

from repic_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
