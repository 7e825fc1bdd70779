"""Memory and time of a training before it runs: `plan` is the entry point; the command is ``repic plan``."""
