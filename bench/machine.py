"""Facts about the machine, so that numbers can be read later: processor, memory, kernel, file system, versions."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import time
from pathlib import Path
from typing import Any

from bench.rivals import SYSTEMS, System
from bench.samples import median

_PACKAGES = ("pyzmq", "crc32c", "msgspec", "zstandard")
SYNC_PROBES = 100
# Load per core from which other processes disturb what is measured.
BUSY_SHARE = 0.35


def facts(directory: Path) -> dict[str, object]:
    """What matters for a benchmark in `directory`."""
    mount = _mount(directory)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "file_system": mount["type"],
        "mount_options": mount["options"],
        "fdatasync_seconds": sync_seconds(directory),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "systems": {system.key: _version(system()) for system in SYSTEMS},
    }


def busy(machine: dict[str, Any]) -> bool:
    """Whether other processes were at work when a run with these facts began."""
    return bool(machine["load"] > BUSY_SHARE * machine["cores"])


def _version(system: System) -> str:
    return "" if system.missing() else system.version()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _mount(directory: Path) -> dict[str, str]:
    """The mount that holds a directory: the one with the longest matching mount point."""
    best = {"point": "", "type": "?", "options": ""}
    where = str(directory.resolve())
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, options, *_ = line.split()
        prefix = point.rstrip("/") + "/"
        if (where + "/").startswith(prefix) and len(point) >= len(best["point"]):
            best = {"point": point, "type": kind, "options": options}
    return best


def sync_seconds(directory: Path, probes: int = SYNC_PROBES) -> float:
    """Median time of an fdatasync after a 100-byte append: the unit in which commit latencies are judged."""
    path = directory / "fdatasync.probe"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC, 0o640)
    times = []
    try:
        for _ in range(probes):
            begin = time.perf_counter()
            os.write(fd, bytes(100))
            os.fdatasync(fd)
            times.append(time.perf_counter() - begin)
    finally:
        os.close(fd)
        path.unlink()
    return median(times)


def process_seconds(pid: int) -> float:
    """Processor time a process has used, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> tuple[int, int]:
    """Resident memory of a process: all of it, and the part that is its own (not pages of files)."""
    values = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("VmRSS", "RssAnon"):
            values[name] = int(rest.split()[0]) * 1024
    return values["VmRSS"], values["RssAnon"]
