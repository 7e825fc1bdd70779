"""The toy base behind a real server: ``transformers serve`` in a process of its own."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from helpers.places import ROOT


@contextmanager
def served_toy(folder):
    """Context manager that gives the server's address; its log is written into `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = Path(folder) / "serve.txt"
    command = [Path(sys.executable).parent / "transformers", "serve", "assets/toy-base", "--device", "cpu"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        for _ in range(1500):
            if process.poll() is not None:
                raise RuntimeError(f"the server stopped: {log.read_text()}")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        else:
            raise RuntimeError(f"the server did not start: {log.read_text()}")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()
