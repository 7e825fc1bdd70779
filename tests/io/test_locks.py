"""One writer at a time, also of processes, and none waits for one that was killed."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from helpers.writers import together
from repic_core.io import locks
from repic_core.io.locks import content_hash, locked


def test_counting_in_processes(tmp_path):
    """Each process adds 1 to the number in a file twenty times; without a lock, additions are lost."""
    (tmp_path / "number").write_text("0")
    work = """
for _ in range(20):
    with locked(folder / "number"):
        (folder / "number").write_text(str(int((folder / "number").read_text()) + 1))
"""
    together(tmp_path, 3, "from repic_core.io.locks import locked", work)
    assert (tmp_path / "number").read_text() == "60"
    assert not list(tmp_path.glob(".*"))  # no marker stays


def test_counting_in_threads(tmp_path):
    number = [0]

    def count():
        for _ in range(20):
            with locked(tmp_path / "a"), locked(tmp_path / "a"):  # entered again
                now = number[0]
                threading.Event().wait(0.0005)
                number[0] = now + 1

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert number[0] == 60


HOLD = """
import sys, time
from repic_core.io.locks import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of ``a.json``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "a.json")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_lock_ends_with_its_process(tmp_path, holder):
    assert (tmp_path / ".a.json.lock").exists()
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / ".a.json.lock").exists()  # stale
    with locked(tmp_path / "a.json"):
        pass
    assert not (tmp_path / ".a.json.lock").exists()


def test_a_lock_that_is_held_names_the_file(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(locks, "WAIT", 0.2)
    said = r"a\.json: another program has been writing it for 0\.2 seconds"
    with pytest.raises(TimeoutError, match=said), locked(tmp_path / "a.json"):
        pytest.fail("two hold it")
    with locked(tmp_path / "b.json"):  # another file's
        pass


def test_an_error_gives_the_lock_back(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "a"):
        raise KeyError
    with locked(tmp_path / "a"):
        pass
    assert not list(tmp_path.iterdir())


def test_content_hashes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert content_hash(tmp_path / "a").startswith("ba7816bf")  # FIPS 180-2, appendix B.1
    assert content_hash(tmp_path / "none") is None
