"""``python -m repic_core``: the same as ``repic``."""
