"""Which mount a directory is on, and what the kernel tells about it: /proc/self/mountinfo, statfs, sysfs.

A line of mountinfo, see proc(5):

    36 35 98:0 /root /mnt rw,noatime shared:1 - nfs4 server:/export rw,vers=4.2,hard
    id parent dev root point options  tags    - type source         options of the file system

Nothing here touches the directory itself, which may hang; a helper process does that, and passes on the number of
the mount, which the kernel tells in fdinfo.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

_ESCAPE = re.compile(r"\\([0-7]{3})")
MOUNTINFO = Path("/proc/self/mountinfo")
SYSFS = Path("/sys")
# Layers of mapped devices below a mount: multipath below LVM below encryption, and some to spare.
_DEVICE_LAYERS_MAX = 8
# A LUN is reached through these; a disk that is not may still be shared, but not by accident.
_FABRIC_PATHS = re.compile(r"/session\d+/|/rport-|/nvme-fabrics/|/fabrics/")
_FABRIC_TRANSPORTS = ("tcp", "rdma", "fc")
_RECOVER_LOST_LOCKS = Path("/sys/module/nfs/parameters/recover_lost_locks")


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """One mount. `options` are those of the mount and of the file system together, `key` or `key=value`."""

    id: int = 0
    device: str = ""
    root: str = "/"
    point: str = "/"
    type: str
    source: str = ""
    options: tuple[str, ...] = ()

    def has(self, *names: str) -> bool:
        """Whether one of the options is set."""
        return any(name in self.options for name in names)

    def value(self, name: str) -> str:
        """The value of `name=value`; "" when it is not there."""
        return next((one.partition("=")[2] for one in self.options if one.startswith(f"{name}=")), "")

    @property
    def digest(self) -> str:
        """Changes when the mount is another, or mounted otherwise."""
        parts = (self.type, self.source, self.root, *sorted(set(self.options)))
        return hashlib.blake2b("\0".join(parts).encode(errors="surrogateescape"), digest_size=8).hexdigest()


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """The block device below a mount: `wwids` with the partition (`naa.6001-part1`), ascending; `fabric` when it is
    reached over a network; `cache` is "write back" or "write through", or "" when the kernel does not say."""

    number: str
    wwids: tuple[str, ...] = ()
    fabric: bool = False
    cache: str = ""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the rules judge."""

    mount: Mount
    magic: int = 0  # f_type of statfs
    upper: Mount | None = None  # below an overlay's upper directory, when it can be seen
    device: Device | None = None
    twins: tuple[str, ...] = ()  # mount points whose device is another path to the same disk
    recover_lost_locks: bool = False  # the parameter of the nfs module


def parse(text: str) -> list[Mount]:
    """The mounts of a mountinfo text, in its order; lines that are not understood are left out."""
    return [mount for line in text.splitlines() if (mount := _parse_line(line)) is not None]


def _parse_line(line: str) -> Mount | None:
    left, separator, right = line.partition(" - ")
    fields, rest = left.split(" "), right.split(" ")
    if not separator or len(fields) < 6 or len(rest) < 2 or not fields[0].isdigit():
        return None
    options = [*fields[5].split(","), *(rest[2].split(",") if len(rest) > 2 else ())]
    return Mount(
        id=int(fields[0]),
        device=fields[2],
        root=_plain(fields[3]),
        point=_plain(fields[4]),
        type=rest[0],
        source=_plain(rest[1]),
        options=tuple(dict.fromkeys(_plain(one) for one in options if one)),
    )


def _plain(word: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), word)


def read_mounts() -> list[Mount]:
    """The mounts that this process sees."""
    return parse(MOUNTINFO.read_text(errors="surrogateescape"))


def mount_of(path: str, mounts: list[Mount]) -> Mount | None:
    """The mount that a real, absolute path is on, by name: the longest mount point, and the last one mounted there."""
    best: Mount | None = None
    for mount in mounts:
        inside = path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
        if inside and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def gather(mount_id: int, path: str, magic: int) -> Facts | None:
    """The facts about the mount with that number, or else the one that `path` is on by name."""
    mounts = read_mounts()
    mount = next((one for one in mounts if one.id == mount_id), None) or mount_of(path, mounts)
    if mount is None:
        return None
    device = device_of(mount.device)
    upper = None
    if mount.type == "overlay" and (directory := mount.value("upperdir")):
        # In a container the upper directory has no name; then nothing can be said about it.
        with suppress(OSError):
            if os.path.isdir(directory):
                upper = mount_of(os.path.realpath(directory), mounts)
    return Facts(
        mount=mount,
        magic=magic,
        upper=upper,
        device=device,
        twins=tuple(_twins(mount, device, mounts)) if device else (),
        recover_lost_locks=_recovers_lost_locks(),
    )


def _recovers_lost_locks() -> bool:
    with suppress(OSError):
        return _RECOVER_LOST_LOCKS.read_text().strip().upper() in ("Y", "1")
    return False


def _twins(mount: Mount, device: Device, mounts: list[Mount]) -> Iterator[str]:
    """Mount points of other device numbers that lead to the same disk and are mounted to write."""
    seen = {device.number}
    for other in mounts:
        if other.device in seen or other.has("ro") or not device.wwids:
            continue
        seen.add(other.device)
        found = device_of(other.device)
        if found is not None and set(found.wwids) & set(device.wwids):
            yield other.point


def device_of(number: str, sysfs: Path = SYSFS) -> Device | None:
    """The block device with that number (`8:1`), or None when the mount has none that is known."""
    start = sysfs / "dev/block" / number
    if number.startswith("0:") or not start.exists():
        return None
    leaves = list(_leaves(start.resolve()))
    caches = {text for leaf in leaves if (text := _line(_whole(leaf) / "queue/write_cache"))}
    return Device(
        number=number,
        wwids=tuple(sorted(filter(None, map(_identity, leaves)))),
        fabric=any(map(_is_fabric, leaves)),
        cache="write back" if "write back" in caches else next(iter(caches), ""),
    )


def _leaves(path: Path, depth: int = 0) -> Iterator[Path]:
    below = path / "slaves"
    names = sorted(below.iterdir()) if below.is_dir() else []
    if not names or depth >= _DEVICE_LAYERS_MAX:
        yield path
        return
    for name in names:
        yield from _leaves(name.resolve(), depth + 1)


def _whole(path: Path) -> Path:
    return path.parent if (path / "partition").exists() else path


def _identity(path: Path) -> str:
    whole = _whole(path)
    name = next(filter(None, (_line(whole / one) for one in ("device/wwid", "wwid"))), "")
    part = _line(path / "partition")
    return f"{name}-part{part}" if name and part else name


def _is_fabric(path: Path) -> bool:
    whole = _whole(path)
    return bool(_FABRIC_PATHS.search(f"{whole}/")) or _line(whole / "device/transport") in _FABRIC_TRANSPORTS


def _line(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(errors="replace").strip()
    return ""
