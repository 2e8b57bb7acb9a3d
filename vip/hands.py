"""The one thread that changes what the kernel has: takes, removes, looks, refreshes - one after the other.

`RemoveAll` goes before everything that waits; what was to be taken is dropped then.

Lock: `_ready` (a Condition) over the waiting work.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from jlogd.errors import JlogError
from vip.actions import Announce, Look, Remove, RemoveAll, Take, Taken
from vip.clock import boot_ns
from vip.kernel.interface import Floating, Kernel, Present

Work = Take | Remove | RemoveAll | Look | Announce


class Told(Protocol):
    """Where results go; the daemon puts them into the queue of its deciding thread."""

    def taken(self, taken: Taken) -> None: ...

    def removed(self, addresses: tuple[Floating, ...], failed: dict[str, str]) -> None: ...

    def removed_all(self, failed: str) -> None: ...

    def looked(self, present: list[Present]) -> None: ...

    def failed(self, why: str) -> None: ...


class Refresh:
    """Lifetimes are to follow the deadline."""


class Hands:
    """Carries out work for the kernel in order and tells the deciding thread."""

    def __init__(self, kernel: Kernel, probe_ns: int, deadline: Callable[[], int], told: Told) -> None:
        self._kernel, self._probe_ns, self._deadline, self._told = kernel, probe_ns, deadline, told
        self._ready = threading.Condition()
        self._work: deque[Work | Refresh | None] = deque()
        self._thread = threading.Thread(target=self._run, name="vip-hands", daemon=True)
        self.busy_since = 0

    def start(self) -> None:
        self._thread.start()

    def put(self, work: Work) -> None:
        """Have it done."""
        with self._ready:
            if isinstance(work, RemoveAll):
                for dropped in [item for item in self._work if isinstance(item, Take)]:
                    self._work.remove(dropped)
                    self._told.taken(_failed(dropped, "everything is being removed"))
            self._work.append(work)
            self._ready.notify()

    def refresh(self) -> None:
        """Lifetimes after a new deadline; once is enough, however many heartbeats there were."""
        with self._ready:
            if not any(isinstance(item, Refresh) for item in self._work):
                self._work.append(Refresh())
                self._ready.notify()

    def close(self) -> None:
        with self._ready:
            self._work.append(None)
            self._ready.notify()
        self._thread.join(timeout=10)

    @property
    def ended(self) -> bool:
        """Whether nothing is done any more: what is removed now stays removed."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._ready:
                self.busy_since = 0
                while not self._work:
                    self._ready.wait()
                work = self._work.popleft()
                self.busy_since = boot_ns()
            if work is None:
                return
            self._do(work)

    def _do(self, work: Work | Refresh) -> None:
        match work:
            case Take():
                self._told.taken(self._take(work))
            case Remove(addresses):
                self._told.removed(addresses, self._remove(addresses))
            case RemoveAll():
                self._told.removed_all(self._remove_all())
            case Announce(addresses):
                self._kernel.announce(addresses)
            case Look():
                self._look()
            case Refresh():
                self._refresh()

    def _take(self, work: Take) -> Taken:
        try:
            foreign = self._kernel.probe(work.addresses, self._probe_ns) if self._probe_ns else {}
            free = [floating for floating in work.addresses if floating.address not in foreign]
            failures = self._kernel.add(free, self._deadline()) if free else {}
            self._kernel.announce([floating for floating in free if floating not in failures])
        except (JlogError, OSError) as error:
            return _failed(work, str(error))
        failed = {floating.address: why for floating, why in failures.items()}
        return Taken(work.addresses, failed=failed, foreign=foreign)

    def _remove(self, addresses: tuple[Floating, ...]) -> dict[str, str]:
        try:
            return {floating.address: why for floating, why in self._kernel.remove(addresses).items()}
        except (JlogError, OSError) as error:
            return {floating.address: str(error) for floating in addresses}

    def _remove_all(self) -> str:
        try:
            self._kernel.remove_all()
        except (JlogError, OSError) as error:
            return str(error)
        return ""

    def _look(self) -> None:
        try:
            self._told.looked(self._kernel.present())
        except (JlogError, OSError) as error:
            self._told.failed(f"addresses cannot be read: {error}")

    def _refresh(self) -> None:
        try:
            deadline = self._deadline()
            if deadline > boot_ns():
                self._kernel.refresh(deadline)
        except (JlogError, OSError) as error:
            self._told.failed(f"lifetimes cannot be refreshed: {error}")


def _failed(work: Take, why: str) -> Taken:
    return Taken(work.addresses, failed={floating.address: why for floating in work.addresses})
