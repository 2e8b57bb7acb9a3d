"""Answers that must not be believed: of another cluster, or of a member that lives in the past.

All connections of a process share one guard. Before a question is sent it gives a mark: how far the store was known
to be. An answer behind its mark comes from a member with stale data and is treated as no answer; one of another
cluster means that the store was replaced, and nothing that was agreed before may be relied on.

Lock: `_lock` over all fields.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from cluster.errors import StoreReplaced, StoreUnavailable
from cluster.gateway import Header


class Mark(NamedTuple):
    """How far the store was known to be when a question was sent."""

    revision: int
    raft_term: int


class Guard:
    """The highest revision and term seen, and which cluster it was."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cluster = ""
        self._revision = 0
        self._raft_term = 0

    def mark(self) -> Mark:
        with self._lock:
            return Mark(self._revision, self._raft_term)

    def check(self, header: Header, mark: Mark, endpoint: str) -> int:
        """The revision of an answer. Raises `StoreReplaced`, `StoreUnavailable` for one that is behind `mark`."""
        revision, raft_term = int(header.revision), int(header.raft_term)
        with self._lock:
            if self._cluster and header.cluster_id != self._cluster:
                raise StoreReplaced(
                    f"{endpoint} belongs to the etcd cluster {header.cluster_id}, not to {self._cluster} as before; "
                    "if etcd was restored or replaced on purpose, restart vip on every node"
                )
            if revision < mark.revision or raft_term < mark.raft_term:
                raise StoreUnavailable(
                    f"{endpoint} is behind: revision {revision} in term {raft_term}, known were {mark.revision} in "
                    f"term {mark.raft_term}; a member with stale data, or an etcd that was set back (then restart vip "
                    "on every node)"
                )
            self._cluster = header.cluster_id
            self._revision = max(self._revision, revision)
            self._raft_term = max(self._raft_term, raft_term)
        return revision
