"""A real JupyterLab in a process of its own, and its page in a browser as a person uses it."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat

from repic_core.notebooks.outputs import red_faults

# All cells are in the page, not only those in sight; and nothing asks whether to fetch news.
SETTINGS = {"@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none"}}
DISABLED = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
RUNNING = "[*]:"  # the prompt of a cell that waits or runs
# What JupyterLab itself logs as errors, by name.
NOT_OURS = ("favicon.ico",)


@contextmanager
def running_lab(folder: Path, state: Path):
    """The address of a JupyterLab whose files are those of `folder`; settings, logs and the like go to `state`."""
    places = {name: state / name.lower() for name in ("CONFIG", "DATA", "RUNTIME")}
    settings = state / "settings"
    for path, content in [(places["CONFIG"] / "labconfig" / "page_config.json", DISABLED)] + [
        (settings / name, content) for name, content in SETTINGS.items()
    ]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    environment = {f"JUPYTER_{name}_DIR": str(path) for name, path in places.items()}
    environment |= {"JUPYTERLAB_SETTINGS_DIR": str(settings), "IPYTHONDIR": str(state / "ipython")}
    environment |= {"JUPYTERLAB_WORKSPACES_DIR": str(state / "workspaces"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.port=0"]
    command += ["--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True"]
    command += [f"--ServerApp.root_dir={folder}"]
    log = state / "lab.txt"
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command, cwd=folder, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
    try:
        yield _address(process, places["RUNTIME"], log)
    finally:
        process.terminate()  # it ends its kernels
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen, runtime: Path, log: Path) -> str:
    info = runtime / f"jpserver-{process.pid}.json"
    for _ in range(1500):
        if process.poll() is not None:
            break
        if info.exists() and " is running at" in log.read_text():
            return f"http://127.0.0.1:{json.loads(info.read_text())['port']}"
        time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start: {log.read_text()}")


class Notebook:
    """A notebook that is open in JupyterLab.

    Attributes:
        page: Playwright's page.
        faults: errors of the page's scripts and of its console.
    """

    def __init__(self, page, address: str, name: str) -> None:
        self.page = page
        self.faults: list[str] = []
        page.on("pageerror", lambda error: self._fault(str(error)))
        page.on("console", lambda said: said.type == "error" and self._fault(f"{said.text} {said.location}"))
        page.goto(f"{address}/lab/tree/{name}?reset")
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        self._kernel_is("idle")

    def _fault(self, text: str) -> None:
        if not any(known in text for known in NOT_OURS):
            self.faults.append(text)

    def _kernel_is(self, status: str) -> None:
        self.page.wait_for_function(
            "status => jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === status",
            arg=status,
        )

    def run_all(self) -> None:
        """*Run > Run All Cells*; returns at once."""
        self.page.locator(".lm-MenuBar").get_by_text("Run", exact=True).click()
        self.page.locator(".lm-Menu-item", has_text="Run All Cells").first.click()
        self.page.locator(".jp-InputArea-prompt", has_text=RUNNING).first.wait_for()

    def finished(self) -> nbformat.NotebookNode:
        """The notebook as JupyterLab has it once no cell is waiting any more."""
        self.page.wait_for_function(
            "running => ![...document.querySelectorAll('.jp-InputArea-prompt')]"
            ".some(prompt => prompt.textContent.trim() === running)",
            arg=RUNNING,
        )
        self._kernel_is("idle")
        content = self.page.evaluate("jupyterapp.shell.currentWidget.content.model.toJSON()")
        return nbformat.from_dict(content)

    def output_of(self, text: str):
        """The output area of the code cell whose source contains `text`."""
        cell = self.page.locator(".jp-CodeCell").filter(
            has=self.page.locator(".jp-InputArea-editor", has_text=re.compile(re.escape(text)))
        )
        return cell.first.locator(".jp-OutputArea").first


def complaints(book: nbformat.NotebookNode) -> list[str]:
    """What a reader would stumble over: errors, text on stderr, cells that have not run."""
    found = []
    for number, cell in enumerate((one for one in book.cells if one.cell_type == "code"), start=1):
        if cell.execution_count is None and cell.source.strip():
            found.append(f"code cell {number} did not run")
        for output in cell.outputs:
            found += [f"code cell {number} {fault}" for fault in red_faults(output)]
    return found


def with_parameters(book: Path, copy: Path, **values) -> None:
    """A copy of a notebook, with other values in its cell of parameters."""
    notebook = nbformat.read(book, as_version=4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    lines = cell.source.splitlines()
    for name, value in values.items():
        (place,) = [i for i, line in enumerate(lines) if re.match(rf"{name}\s*=", line)]
        lines[place] = f"{name} = {value!r}"
    cell.source = "\n".join(lines)
    copy.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, copy)
