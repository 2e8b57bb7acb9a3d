"""The guard: a small process that takes the addresses away when the daemon dies or lets its deadline pass.

    python -I -c ... CONTROL SHARED GATE DAEMON      descriptors, and the process id of the daemon

    control   a socket pair: we say "r" when ready; "q" from the daemon is a clean end; its end without "q" is a death
    shared    memory: u64 deadline | u64 (slot << 32 | length) of the farewell | two slots of 64 KiB
    gate      the mapped deadline of the gate, or -1
    lock      a descriptor that is only held: no other run begins before this one has cleaned up

On death: close the gate, remove every address with our mark, read back, and only when none is left say the farewell
that the daemon left for this case. Past the deadline, with a daemon that still exists: remove the addresses, say
nothing: a daemon that wakes up may still believe that it holds them, until it looks at the clock.

It needs no state of the daemon's but the deadline: what to remove is what carries the mark, read from the kernel. It
has a session of its own and ignores SIGTERM, SIGINT and SIGHUP, so that what ends a service or a terminal does not
end it before the daemon; its memory is locked where that is allowed, so that a machine out of memory does not stop it.

One thread, no locks. The standard library, `netlink` and `address_messages`, and `vip.farewell`.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import mmap
import os
import resource
import select
import signal
import struct
import time
from collections.abc import Callable

from vip.kernel.address_messages import listed, remove_ours
from vip.kernel.netlink import Netlink

FAREWELL_BYTES_MAX = 64 << 10
# deadline, and which slot of the farewell is valid; the rest of the page is free.
SLOTS_AT = 4096
SHARED_BYTES = SLOTS_AT + 2 * FAREWELL_BYTES_MAX

READY = b"r"
QUIT = b"q"

# While the deadline stands in the past and the daemon does not say so itself, an addition that was on its way when the
# daemon was stopped may still arrive; so we look again this often. Seconds.
_PAST_DEADLINE_SECONDS = 0.2
# How long to sleep at most when nothing happens: the deadline moves without waking us. Seconds.
_SLEEP_SECONDS_MAX = 0.5
# Removing is tried again while the kernel has no room or the table changes under us.
_TRIES = 50
_TRY_SECONDS = 0.1

_STDERR = 2
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


def main(control: int, shared: int, gate: int, daemon: int) -> None:
    """Guard until the daemon ends."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    memory = mmap.mmap(shared, SHARED_BYTES, mmap.MAP_SHARED, mmap.PROT_READ)
    close_gate = _gate(gate)
    netlink = Netlink()
    time.localtime()  # reads the time zone, as long as files can be read
    _unstoppable()
    say = _farewell()
    os.write(control, READY)
    if _until_death(control, daemon, memory, netlink):
        close_gate()
        if _remove_everything(netlink):
            say(_last_words(memory))


def _until_death(control: int, daemon: int, memory: mmap.mmap, netlink: Netlink) -> bool:
    """Keep the deadline until the daemon ends: True when it died, False when it said goodbye."""
    poll = select.poll()
    poll.register(control, select.POLLIN | select.POLLHUP)
    with contextlib.suppress(OSError):  # gone already: the control socket says so as well
        # Some child of the daemon may have inherited the socket, so its end is not always seen.
        poll.register(os.pidfd_open(daemon), select.POLLIN)
    while True:
        wait = _SLEEP_SECONDS_MAX
        deadline = struct.unpack_from("=Q", memory)[0]
        if deadline:
            left = (deadline - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) / 1e9
            if left <= 0:
                _remove_once(netlink)
                left = _PAST_DEADLINE_SECONDS
            wait = min(wait, left)
        ready = poll.poll(max(1, int(wait * 1000)))
        for descriptor, _ in ready:
            if descriptor == control:
                return _read(control) != QUIT
        if ready:
            return True


def _read(control: int) -> bytes:
    try:
        return os.read(control, 1)
    except OSError:
        return b""


def _remove_once(netlink: Netlink) -> None:
    try:
        spots, failures = remove_ours(netlink)
    except OSError as error:
        _tell(f"the addresses could not be removed at the deadline: {error.strerror}", "ERROR")
        return
    if spots:
        _tell(f"removed {len(spots) - len(failures)} addresses: the deadline passed and the daemon did not move it")


def _remove_everything(netlink: Netlink) -> bool:
    """True when the kernel shows none of our addresses any more."""
    removed = 0
    why = ""
    for _ in range(_TRIES):
        try:
            spots, failures = remove_ours(netlink)
            removed += len(spots) - len(failures)
            if not failures and not any(row.ours for row in listed(netlink)):
                _tell(f"the daemon died; removed {removed} addresses")
                return True
        except OSError as error:
            why = error.strerror or str(error)
        time.sleep(_TRY_SECONDS)
    _tell(f"the daemon died, and its addresses could not all be removed: {why}; their lifetimes end them", "ERROR")
    return False


def _last_words(memory: mmap.mmap) -> bytes:
    where = struct.unpack_from("=Q", memory, 8)[0]
    start = SLOTS_AT + (where >> 32) * FAREWELL_BYTES_MAX
    return memory[start : start + (where & 0xFFFFFFFF)]


def _gate(descriptor: int) -> Callable[[], None]:
    """What closes the gate."""
    if descriptor < 0:
        return lambda: None
    mapped = mmap.mmap(descriptor, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    number = ctypes.c_uint64.from_buffer(mapped)

    def close() -> None:
        number.value = 0

    return close


def _farewell() -> Callable[[bytes], None]:
    """`vip.farewell.say`, for anything but no words."""
    try:
        say: Callable[[bytes], None] = importlib.import_module("vip.farewell").say
    except ImportError as error:  # removing the addresses is what counts
        _tell(f"no farewell will be said: {error}")
        return lambda words: None
    return lambda words: say(words) if words else None


def _unstoppable() -> None:
    """As hard to stop as this process is allowed to make itself; none of it is needed on a healthy machine."""
    unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    if unlimited or os.geteuid() == 0:  # else a later allocation would fail at the limit
        ctypes.CDLL(None).mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("-1000")


def _tell(sentence: str, level: str = "WARNING") -> None:
    """To the log that the daemon's own lines go to. Whoever reads it may be gone, or stopped: nothing here may wait."""
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [_STDERR], [], 0)[1]:  # then a line fits, in a pipe too
            now = time.time()  # as the daemon's lines begin
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
            os.write(_STDERR, f"{at},{int(now % 1 * 1000):03} {level} guard: {sentence}\n".encode())
