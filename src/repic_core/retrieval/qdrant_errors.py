"""One clear sentence for whatever goes wrong between the Qdrant client and its server."""

from __future__ import annotations

from typing import Any


class QdrantError(RuntimeError):
    """The server did not answer, or refused a request; the message says why, and what to do."""


def ask(client: Any, what: str, collection: str, *args: Any, **options: Any) -> Any:
    """Call the method `what` of a `QdrantClient` on a collection.

    Raises:
        QdrantError: the server did not answer, or refused.
    """
    from qdrant_client.common.client_exceptions import QdrantException
    from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

    try:
        return getattr(client, what)(collection, *args, **options)
    except ResponseHandlingException as error:
        why = f"did not answer ({str(error.source) or type(error.source).__name__})"
        fix = "check that it runs and its URL, or give QdrantClient a longer timeout, and repeat the call"
    except UnexpectedResponse as error:
        why = f"answered {error.status_code} ({_reason(error)})"
        fix = "see its log, and repeat the call"
    except (ApiException, QdrantException) as error:
        why, fix = f"refused ({error})", "repeat the call later"
    raise QdrantError(f"{collection}: the Qdrant server {why} when asked to {what}: {fix}")


def _reason(error: Any) -> str:
    """What a server says of a request that it refused, on one line."""
    try:
        reason = str(error.structured()["status"]["error"])
    except (ValueError, TypeError, KeyError):
        reason = error.reason_phrase or "no reason given"
    return " ".join(reason.split())[:200]
