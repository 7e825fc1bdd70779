"""A captioner without a model, and the live page with it."""

import threading
import time

from repic_core.concepts.database import ConceptDatabase


class FakeCaptioner:
    """Streams `text` word by word; counts how many run at once and how often one was stopped."""

    def __init__(self, text="A <bo> and Mia Rose.", pause=0.0, error=None):
        self.text, self.pause, self.error = text, pause, error
        self.calls, self.running, self.most, self.stopped = [], 0, 0, 0
        self.lock = threading.Lock()

    def stream(self, query, references, question):
        self.calls.append((query.size, [c.tag for c in references], question))
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            if self.error:
                raise self.error
            words = self.text.split(" ")
            for i in range(len(words)):
                yield " ".join(words[: i + 1])
                time.sleep(self.pause)
        except GeneratorExit:
            self.stopped += 1
            raise
        finally:
            with self.lock:
                self.running -= 1


def live(folder, captioner):
    from repic_core.demo.live import build_live

    return build_live(captioner, ConceptDatabase.load(folder / "database.json"))
