"""Several processes at once: `together` runs a Python script in each, started as nearly at once as can be."""

import os
import subprocess
import sys
import time
from pathlib import Path

GO = """
import os, sys, time
from pathlib import Path
folder, number = Path(sys.argv[1]), int(sys.argv[2])
"""
WAIT = """
(folder / f"ready-{number}").touch()
while not (folder / "go").exists():
    time.sleep(0.002)
"""


def together(folder: Path, count: int, prepare: str, work: str) -> list[str]:
    """Run `prepare` and, once all processes are ready, `work` in `count` processes; what each has printed.

    Both know `folder` and the process's `number`.
    """
    script = GO + prepare + WAIT + work
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(folder), str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for number in range(count)
    ]
    try:
        while len(list(folder.glob("ready-*"))) < count and all(p.poll() is None for p in processes):
            time.sleep(0.002)
        (folder / "go").touch()
        said = [process.communicate(timeout=100)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * count, said
    return said
