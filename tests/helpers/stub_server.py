"""A server with OpenAI's protocol that answers as a test says, with faults too."""

import json
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# What `act` may return instead of a caption.
STALL, HALF, RUBBISH = object(), object(), object()


def asked(body):
    """The text that a request ends with."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


@contextmanager
def stub_server(act):
    """Context manager that gives a server: its `url`, the `requests` (path, headers, body), and `most`, how many
    it was busy with at once.

    Args:
        act: given the text that a request ends with and how often it was sent before, returns a caption, a
            fault (`STALL`, `HALF`, `RUBBISH`), or (status, headers).
    """
    released = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                server.requests.append((self.path, self.headers, body))
                before = server.times[asked(body)]
                server.times[asked(body)] += 1
                server.busy += 1
                server.most = max(server.most, server.busy)
            try:
                found = act(asked(body), before)
            finally:
                with server.lock:
                    server.busy -= 1
            if found is STALL:
                released.wait()
                self.close_connection = True
            elif isinstance(found, tuple):
                self.say(found[0], b"{}", found[1])
            elif found is RUBBISH:
                self.say(200, b"<html>not JSON</html>")
            elif body.get("stream"):
                self.stream(found)
            else:
                data = json.dumps(completion(found if isinstance(found, str) else "cut")).encode()
                self.say(200, data, cut=found is HALF)

        def stream(self, found):
            words = "cut in two" if found is HALF else found
            lines = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces(words)]
            lines += [
                {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
                {"choices": [], "usage": completion("")["usage"]},
            ]
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.close_connection = True
            for line in lines[:2] if found is HALF else lines:
                self.wfile.write(f"data: {json.dumps(HEAD | line)}\n\n".encode())
            if found is not HALF:
                self.wfile.write(b"data: [DONE]\n\n")

        def say(self, status, data, headers=(), cut=False):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if cut else data)
            self.close_connection = self.close_connection or cut

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.lock, server.times, server.requests = threading.Lock(), Counter(), []
    server.busy = server.most = 0
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        released.set()
        server.shutdown()
        server.server_close()


HEAD = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}


def completion(text):
    message = {"role": "assistant", "content": text}
    return {
        **HEAD,
        "object": "chat.completion",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107},
    }


def pieces(text):
    return [word if not number else f" {word}" for number, word in enumerate(text.split(" "))]
