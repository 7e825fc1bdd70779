"""A stand-in for a Qdrant server: the REST requests of the client, answered by its own embedded mode
or another store with the same methods.

What crosses the wire is checked with the client's own models, which forbid fields that the API does not have. As
the real server it refuses requests of more than 32 MB, and a collection that exists already.
"""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from qdrant_client import QdrantClient, models

LARGEST = 32 * 2**20


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Server(ThreadingHTTPServer):
    """`requests` has each request as (method, path, body). `broken` has, by the end of a path, the status of the
    answer instead; 0 gives no answer until the server stops."""

    daemon_threads = True

    def __init__(self, store: Any) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.store, self.lock, self.stopped = (
            store or QdrantClient(":memory:"),
            threading.Lock(),
            threading.Event(),
        )
        self.requests: list[tuple[str, str, Any]] = []
        self.broken: dict[str, int] = {}
        self.indexed: dict[str, dict[str, Any]] = {}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body, path = self.rfile.read(length), self.path.split("?")[0]
        given = json.loads(body) if body else None
        self.server.requests.append((self.command, self.path, given))
        broken = next((code for end, code in self.server.broken.items() if path.endswith(end)), None)
        if broken == 0:
            self.server.stopped.wait(60)
            self.close_connection = True
            return
        try:
            if broken:
                raise Refused(broken, "out of\ndisk space")
            if length > LARGEST:
                raise Refused(413, "payload too large")
            with self.server.lock:
                result = answer(self.server, self.command, path, given)
            self._send(200, {"result": result, "status": "ok"})
        except Refused as error:
            self._send(error.status, {"status": {"error": str(error)}})
        except ValidationError as error:
            self._send(400, {"status": {"error": f"Format error in JSON body: {error}"}})

    do_POST = do_PUT = do_GET

    def _send(self, status: int, reply: dict[str, Any]) -> None:
        text = json.dumps(reply | {"time": 0.0}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


def answer(server: Server, method: str, path: str, body: Any) -> Any:
    """The result of one request."""
    store, (_, name, *rest) = server.store, path.strip("/").split("/")
    what = f"{method} {'/'.join(rest)}".strip()
    exists = store.collection_exists(name)
    if what == "GET exists":
        return {"exists": exists}
    if what == "PUT":
        if exists:
            raise Refused(409, f"Wrong input: Collection `{name}` already exists!")
        about = models.CreateCollection.model_validate(body)
        server.indexed[name] = {}
        return store.create_collection(name, vectors_config=about.vectors)
    if not exists:
        raise Refused(404, f"Not found: Collection `{name}` doesn't exist!")
    if what == "GET":
        indexes = {field: {"data_type": "keyword", "points": 0} for field in server.indexed[name]}
        return plain(store.get_collection(name)) | {"payload_schema": indexes}
    done = {"operation_id": 0, "status": "completed"}
    if what == "PUT index":
        index = models.CreateFieldIndex.model_validate(body)
        server.indexed[name][index.field_name] = body["field_schema"]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Payload indexes have no effect in the local Qdrant")
            store.create_payload_index(name, index.field_name, field_schema=index.field_schema)
    elif what == "PUT points":
        store.upsert(name, models.PointsList.model_validate(body).points)
    elif what == "POST points/delete":
        store.delete(name, TypeAdapter(models.PointsSelector).validate_python(body))
    elif what == "POST points/payload":
        change = models.SetPayload.model_validate(body)
        store.set_payload(name, change.payload, points=change.points or change.filter)
    elif what == "POST points/count":
        wanted = models.CountRequest.model_validate(body)
        return plain(store.count(name, count_filter=wanted.filter))
    elif what == "POST points/scroll":
        wanted = models.ScrollRequest.model_validate(body)
        points, after = store.scroll(
            name,
            wanted.filter,
            limit=wanted.limit or 10,
            offset=wanted.offset,
            with_payload=wanted.with_payload,
        )
        return {"points": [plain(point) for point in points], "next_page_offset": after}
    elif what == "POST points/query/batch":
        wanted = models.QueryRequestBatch.model_validate(body)
        return [plain(found) for found in store.query_batch_points(name, wanted.searches)]
    else:
        raise Refused(404, f"the stand-in does not know {what}")
    return done


def plain(model: BaseModel) -> Any:
    return model.model_dump(mode="json")


@contextmanager
def serving(store: Any = None) -> Iterator[Server]:
    """A running stand-in, empty, on a free port of this machine."""
    server = Server(store)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        stop(server)


def stop(server: Server) -> None:
    """End the stand-in; connections are refused from now on. What it holds stays."""
    if not server.stopped.is_set():
        server.stopped.set()
        server.shutdown()
        server.server_close()
