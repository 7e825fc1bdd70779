"""Where the repository is, for tests and the scripts that they start."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "assets" / "toy-base"
