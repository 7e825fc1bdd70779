"""Many visitors at once on the live page: does each get answers, how soon, and does the server's memory stay flat?

``repic benchmark page-load`` starts the page with the toy base in its own process (Linux only) and prints a table.
"""

from __future__ import annotations

import math
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

from repic_core.benchmarks.training_step import machine
from repic_core.io.tables import markdown

LONGEST = 120  # seconds that a visitor waits before an answer counts as lost


def visit(address: str, photos: list[Path], tags: list[str], end: float, answers: list[float | str]) -> None:
    """Ask for captions, one after another, until `end`; `answers` gets the seconds of each, or why it was lost."""
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False)
    client.predict("", [], api_name="/enter")  # as a browser does when it opens the page
    number = 0
    while time.monotonic() < end:
        started = time.monotonic()
        try:
            photo = handle_file(photos[number % len(photos)])
            html = client.submit(photo, tags, api_name="/caption").result(timeout=LONGEST)
            if "whole after" in html:
                answers.append(time.monotonic() - started)
            else:
                answers.append(f"cut off: {html[-200:]}")
        except Exception as error:  # any error means that the visitor got no caption
            answers.append(f"{type(error).__name__}: {error}")
        number += 1


def load(
    address: str, process: int, photos: list[Path], tags: list[str], clients: int, minutes: float
) -> dict:
    """What `clients` visitors got in so many minutes: answers, losses and waiting times (seconds).

    ``memory`` has pairs of seconds since the start and the server's memory (MiB), every two seconds.
    """
    answers: list[list[float | str]] = [[] for _ in range(clients)]
    end = time.monotonic() + 60 * minutes
    threads = [
        threading.Thread(target=visit, args=(address, photos, tags, end, mine), daemon=True)
        for mine in answers
    ]
    for thread in threads:
        thread.start()
    started, memory = time.monotonic(), []
    while any(thread.is_alive() for thread in threads):
        memory.append((time.monotonic() - started, resident(process)))
        time.sleep(2)
    every = [answer for mine in answers for answer in mine]
    waits = sorted(answer for answer in every if isinstance(answer, float))
    return {
        "answers": len(waits),
        "lost": [answer for answer in every if isinstance(answer, str)],
        "fewest a visitor": min(map(len, answers)),
        "p50": median(waits) if waits else float("nan"),
        "p95": waits[math.ceil(0.95 * len(waits)) - 1] if waits else float("nan"),
        "memory": memory,
    }


def resident(process: int) -> float:
    """A process's resident memory in MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def run(
    clients: int = 20, minutes: float = 4, model: str = "assets/toy-base", adapter: str | None = None
) -> dict[str, Any]:
    """`load` of a page with toys, in a process of its own.

    Raises:
        RuntimeError: the page did not start.
    """
    from repic_core.evaluation.query_sets import load_query_set
    from repic_core.toyworld.dataset import write_heldout

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_heldout(root, "val", n=8)
        queries = load_query_set(root).queries["4 all"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "repic_core", "demo", "live", "--model", model]
        command += ["--database", str(root / "database.json"), "--system", "none", "--max-pixels", "0"]
        command += ["--port", str(port), *(["--adapter", adapter] if adapter else [])]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            try:
                address = f"http://127.0.0.1:{port}/"
                _wait_for(address, server)
                photos = [root / query["query"] for query in queries]
                return load(address, server.pid, photos, queries[0]["references"], clients, minutes)
            finally:
                server.terminate()


def table(found: dict[str, Any], clients: int, minutes: float) -> str:
    """What was measured, as Markdown, with the reasons of losses below."""
    after = [used for at, used in found["memory"] if at >= 60] or [found["memory"][-1][1]]
    row = {
        "visitors": clients,
        "minutes": f"{minutes:g}",
        "captions": found["answers"],
        "lost": len(found["lost"]),
        "fewest of a visitor": found["fewest a visitor"],
        "wait p50": f"{found['p50']:.2f} s",
        "p95": f"{found['p95']:.2f} s",
        "memory after 1 minute": f"{after[0]:.0f} MiB",
        "at half time": f"{found['memory'][len(found['memory']) // 2][1]:.0f} MiB",
        "at the end": f"{after[-1]:.0f} MiB",
    }
    reasons = "".join(f"\nlost: {reason}" for reason in sorted(set(found["lost"])))
    where = ", ".join(f"{name} {value}" for name, value in machine().items())
    return f"{markdown(list(row), [[str(value) for value in row.values()]])}\n\n{where}{reasons}"


def _wait_for(address: str, server: Any) -> None:
    import urllib.error
    import urllib.request

    for _ in range(300):
        if server.poll() is not None:
            raise RuntimeError(f"the page did not start (exit status {server.returncode})")
        try:
            urllib.request.urlopen(address, timeout=5).read()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError("the page did not start in time")
