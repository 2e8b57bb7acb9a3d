"""The gate: after the deadline the kernel itself drops what we would send from floating addresses.

    set_deadline() -> [ u64 in a mapped array ] <---- program on clsact egress of each interface ----> drop or pass on
    add(), remove() -> [ set of addresses ]     <----

The filter holds the program and its maps, so a frozen, killed or starved daemon changes nothing: the deadline stands in
the kernel and is absolute, a late store of an old one is harmless. A later run removes the filter by its handle and
puts its own, closed, in its place.

Order, for every address: into the set, then onto the interface; off the interface, then out of the set.

No locks: `set_deadline` is one store; the other methods belong to one thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterable
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from vip.kernel import bpf, gate_program
from vip.kernel.errors import KernelError, in_words

# How the filter is known again: first of all filters, and a handle that nobody else is likely to take.
_HANDLE = 0x9C
_PRIORITY = 1
_NAME = "vip_gate"
_EGRESS = 0xFFFFFFF3
_CLSACT = 0xFFFFFFF1
_ETH_P_ALL = 0x0003
_ARPHRD_ETHER = 1

# More than the 10,240 addresses a machine is asked to carry.
ADDRESSES_MAX = 16_384

# A packet that passed just before the deadline is still on its way through the queues of the device, and the clock of
# the program is read once per packet. With margin; measured below one millisecond on veth.
LATENESS_NS = 20_000_000


class NoGate(KernelError):
    """This kernel, or these privileges, do not allow the gate; the message says why."""


class Gate:
    """`fd` is that of the mapped deadline, for the guard. Raises `NoGate` where it cannot be had."""

    def __init__(self) -> None:
        self._attached: dict[str, int] = {}
        with contextlib.ExitStack() as made:
            try:
                self.fd = bpf.create_map(bpf.MAP_ARRAY, 4, 8, 1, bpf.MAP_MMAPABLE, "vip_deadline")
                made.callback(os.close, self.fd)
                self._deadline = bpf.SharedNumber(self.fd)
                made.callback(self._deadline.close)
                self._floating = bpf.HashSet(16, ADDRESSES_MAX, "vip_floating")
                made.callback(self._floating.close)
                self._program, self.clock = self._load()
                made.callback(os.close, self._program)
            except OSError as error:
                raise NoGate(_why(error)) from None
            self._made = made.pop_all()

    def set_deadline(self, deadline_ns: int) -> None:
        """Open until `deadline_ns` (CLOCK_BOOTTIME); 0 closes at once."""
        if deadline_ns and self.clock == "monotonic":
            asleep = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            deadline_ns = max(0, deadline_ns - asleep)
        self._deadline.set(deadline_ns)

    def add(self, addresses: Iterable[bytes]) -> None:
        """Put addresses, of 4 or 16 bytes, under the gate. Raises `OSError` when there are too many."""
        for address in addresses:
            self._floating.add(gate_program.key(address))

    def remove(self, addresses: Iterable[bytes]) -> None:
        for address in addresses:
            self._floating.discard(gate_program.key(address))

    def attach(self, interface: str, index: int) -> None:
        """Put the filter on an interface; what a former run left there is replaced. Raises `NoGate`."""
        try:
            with IPRoute() as route:
                _check_ethernet(route, interface, index)
                _take_off(route, index)
                _put_on(route, index, self._program)
        except (NetlinkError, OSError) as error:
            raise NoGate(f"no filter can be put on {interface}: {_netlink_words(error)}") from None
        self._attached[interface] = index

    def detach(self, interface: str) -> None:
        """Take the filter off; an interface that is gone took it along."""
        index = self._attached.pop(interface, None)
        if index is not None:
            remove_leftover(index)

    @property
    def interfaces(self) -> dict[str, int]:
        """Where the filter is: interface -> index."""
        return dict(self._attached)

    def close(self) -> None:
        """Take it off everywhere, and let go of it."""
        self._deadline.set(0)
        for interface in list(self._attached):
            self.detach(interface)
        self._made.close()

    def _load(self) -> tuple[int, gate_program.Clock]:
        """The program with the clock that also counts while the machine sleeps, or with the other one."""
        code = gate_program.build(self.fd, self._floating.fd, "boot")
        try:
            return bpf.load(code, _NAME), "boot"
        except bpf.Rejected as error:
            if "unknown func" not in error.log:
                raise
        return bpf.load(gate_program.build(self.fd, self._floating.fd, "monotonic"), _NAME), "monotonic"


def remove_leftover(index: int) -> bool:
    """Take the filter of this or a former run off an interface; whether there was one."""
    with contextlib.suppress(NetlinkError, OSError), IPRoute() as route:
        return _take_off(route, index)
    return False


def _put_on(route: IPRoute, index: int, program: int) -> None:
    try:
        route.tc("add", "clsact", index)
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise
    route.tc(
        "add-filter",
        "bpf",
        index,
        _HANDLE,
        fd=program,
        name=_NAME,
        parent=_EGRESS,
        prio=_PRIORITY,
        protocol=_ETH_P_ALL,
        direct_action=True,
    )


def _take_off(route: IPRoute, index: int) -> bool:
    """Remove our filter, and clsact when nobody else has a filter there."""
    if not any(_is_ours(found) for found in _filters(route, index, _EGRESS)):
        return False
    route.tc("del-filter", "bpf", index, _HANDLE, parent=_EGRESS, prio=_PRIORITY, protocol=_ETH_P_ALL)
    if not _filters(route, index, _EGRESS) and not _filters(route, index, _EGRESS - 1):
        with contextlib.suppress(NetlinkError):
            route.tc("del", "clsact", index)
    return True


def _filters(route: IPRoute, index: int, parent: int) -> list[Any]:
    try:
        return list(route.get_filters(index, parent=parent))
    except NetlinkError as error:
        if error.code in (errno.EINVAL, errno.ENOENT, errno.EOPNOTSUPP):
            return []  # there is no clsact on it
        raise


def _is_ours(found: Any) -> bool:
    options = found.get_attr("TCA_OPTIONS")
    return found["handle"] == _HANDLE and options is not None and options.get_attr("TCA_BPF_NAME") == _NAME


def _check_ethernet(route: IPRoute, interface: str, index: int) -> None:
    [link] = route.get_links(index)
    if link["ifi_type"] != _ARPHRD_ETHER:
        raise NoGate(f"{interface} is not an Ethernet interface, and the gate reads Ethernet frames")


def _netlink_words(error: NetlinkError | OSError) -> str:
    if isinstance(error, NetlinkError):
        return in_words(
            error.code, "" if error.code == errno.EPERM else str(error.args[1]) if len(error.args) > 1 else ""
        )
    return in_words(error.errno or errno.EIO)


def _why(error: OSError) -> str:
    """One sentence for the operator: what is missing for the gate."""
    number = error.errno or errno.EIO
    if number == errno.ENOSYS:
        return f"no BPF gate: this kernel has no bpf(2) ({error.strerror})"
    if number in (errno.EPERM, errno.EACCES):
        return (
            "no BPF gate: not permitted; the process needs CAP_BPF and CAP_NET_ADMIN (CAP_SYS_ADMIN before kernel 5.8, "
            "and RLIMIT_MEMLOCK unlimited before 5.11), outside a container without bpf(2)"
        )
    log = error.log.splitlines()[-1] if isinstance(error, bpf.Rejected) and error.log else os.strerror(number)
    return f"no BPF gate: this kernel refuses it ({log}); kernel 5.8 or newer is needed"
