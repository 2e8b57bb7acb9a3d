"""The last words of a daemon that died, said by its guard once every address is removed: others need not wait.

They are a transaction that is ready to be sent: if the session still exists, delete it and note that it ended clean.
Only the standard library is used, because the guard keeps this module in its locked memory for its whole life; what the
file of a single machine needs is loaded when it is needed, because there nobody waits for these words.

No locks; one call by one process.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Whoever is to take over waits for this, and gives up waiting by its own clock anyway.
SAY_SECONDS_MAX = 1.8
ENDPOINT_SECONDS_MAX = 0.6


def compose(
    endpoints: tuple[str, ...], body: dict[str, Any], token: str = "", ca: str = "", cert: str = "", key: str = ""
) -> bytes:
    """What `say` will need: where to send which transaction."""
    words = {"endpoints": endpoints, "body": body, "token": token, "ca": ca, "cert": cert, "key": key}
    return base64.b64encode(json.dumps(words).encode())


def compose_solo(path: str, session: tuple[str, int], gone: tuple[str, bytes]) -> bytes:
    """The same for the file of a single machine: which session (key and create-revision) ends, and what is noted."""
    words = {"solo": path, "session": session, "gone": (gone[0], base64.b64encode(gone[1]).decode())}
    return base64.b64encode(json.dumps(words).encode())


def say(farewell: bytes) -> None:
    """Send it to the first member that answers. Never raises; what cannot be said in time is not said."""
    if not farewell:
        return
    with contextlib.suppress(Exception):  # nobody is left to be told
        words = json.loads(base64.b64decode(farewell))
        if "solo" in words:
            _write(Path(words["solo"]), words["session"], words["gone"])
            return
        limit = time.monotonic() + SAY_SECONDS_MAX
        for endpoint in words["endpoints"]:
            left = limit - time.monotonic()
            if left <= 0:
                return
            with contextlib.suppress(OSError, http.client.HTTPException):
                if _post(endpoint, words, min(left, ENDPOINT_SECONDS_MAX)):
                    return


def _write(path: Path, session: tuple[str, int], gone: tuple[str, str]) -> None:
    from cluster.solo import SoloStore
    from cluster.types import Compare, Delete, Put, Txn

    if not path.exists():
        return  # nobody is to find a store that says only that somebody left
    (key, revision), (note, value) = session, gone
    store = SoloStore(path)
    ended = (Delete(key), Put(note, base64.b64decode(value)))
    store.commit(Txn((Compare(key, "create", revision),), ended), within=SAY_SECONDS_MAX)


def _post(endpoint: str, words: dict[str, Any], within: float) -> bool:
    parts = urlsplit(endpoint)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=words["ca"] or None)
        if words["cert"]:
            context.load_cert_chain(words["cert"], words["key"])
        connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=within, context=context)
    else:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=within)
    headers = {"Content-Type": "application/json"}
    if words["token"]:
        headers["Authorization"] = words["token"]
    try:
        connection.request("POST", "/v3/kv/txn", json.dumps(words["body"]), headers)
        return connection.getresponse().status == 200
    finally:
        connection.close()
