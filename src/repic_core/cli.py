"""The command line of the kit: ``repic``."""
