"""Twenty visitors at once: each is answered, nobody gets another's caption, and the load test counts honestly."""

import os
import subprocess
import sys
import threading

import pytest
from gradio_client import Client, handle_file

from helpers.fake_captioner import FakeCaptioner, live
from helpers.pages import Reader, served
from repic_core.benchmarks import page_load as load


class Echo(FakeCaptioner):
    """Answers with the question, word by word."""

    def stream(self, query, references, question):
        self.text = question
        yield from super().stream(query, references, question)


def test_twenty_visitors_each_get_their_own_caption(folder):
    captioner, got = Echo(pause=0.002), {}

    def visitor(number, address):
        client = Client(address, verbose=False)
        for turn in range(3):
            question = f"word {number} of {turn}"
            html = client.predict(handle_file(folder / "q1.png"), ["<bo>"], question, api_name="/caption")
            got[number, turn] = question in Reader(html).text

    with served(live(folder, captioner)) as (_, address):
        threads = [threading.Thread(target=visitor, args=(number, address)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(got) == 60 and all(got.values()) and captioner.most == 1


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from /proc (Linux)")
def test_answers_and_losses_are_counted(folder):
    class Sometimes(FakeCaptioner):
        def stream(self, query, references, question):
            if len(self.calls) % 3 == 2:
                self.error = RuntimeError("lost")
            yield from super().stream(query, references, question)
            self.error = None

    captioner = Sometimes("done", pause=0.05)
    with served(live(folder, captioner)) as (_, address):
        captioner.error = None
        found = load.load(address, os.getpid(), [folder / "q1.png"], ["<bo>"], clients=2, minutes=0.02)
    assert found["answers"] + len(found["lost"]) == len(captioner.calls)
    assert found["lost"] and all("the log says why" in lost for lost in found["lost"])
    assert 0 < found["p50"] <= found["p95"] and found["memory"][0][1] > 10
    text = load.table(found, clients=2, minutes=0.02)
    assert f"| 2 | 0.02 | {found['answers']} | {len(found['lost'])} |" in text and "lost: " in text


def test_memory_is_that_of_the_process():
    code = """
import os
from repic_core.benchmarks.page_load import resident
before = resident(os.getpid())
block = bytearray(50 * 2**20)
block[::4096] = b"x" * len(block[::4096])
print(resident(os.getpid()) - before)
"""
    grown = float(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert 45 < grown < 60
