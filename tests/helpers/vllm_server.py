"""vLLM's own server on CPUs, from an environment of its own, with weights over gloo (`gloo_engine`)."""

import json
import os
import signal
import subprocess
import time
import urllib.request
from contextlib import contextmanager

import pytest

from helpers.places import ROOT

LIMIT = 300  # seconds; on an idle machine of two cores it starts in about sixty
FLAGS = [
    *("--enforce-eager", "--dtype", "float32"),
    *("--enable-scale-out", "--logprobs-mode", "processed_logprobs", "--max-logprobs", "-1"),
    *("--weight-transfer-config", json.dumps({"backend": "gloo"})),
    *("--worker-extension-cls", "helpers.gloo_engine.Extension"),
]
SETTINGS = {
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TRITON_CPU_BACKEND": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT / "tests"),
}


@contextmanager
def vllm_serving(python, model, port, log, **processor):
    """Address of a server that `python` runs; what it says is in the file `log`."""
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--port", str(port)]
    command += ["--host", "127.0.0.1", *FLAGS, "--mm-processor-kwargs", json.dumps(processor)]
    with open(log, "w") as said:
        server = subprocess.Popen(
            [str(part) for part in command],
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**os.environ, **SETTINGS},
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + LIMIT
        while not _answers(address):
            if server.poll() is not None or time.monotonic() > end:
                pytest.skip(f"vLLM does not start here: {log.read_text()[-1000:]}")
            time.sleep(1)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


def _answers(address):
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False
