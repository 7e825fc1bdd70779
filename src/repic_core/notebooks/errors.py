"""The error of notebooks that are run."""


class NotebookError(RuntimeError):
    """A notebook stopped, or can't be run; the message names the notebook, the cell and the error."""
