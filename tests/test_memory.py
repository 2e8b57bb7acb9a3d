"""Memory that was freed is used again by the processes that ask for it, and by no C library that cannot."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from jlogd import memory

_CHURN = """
import importlib, resource, sys
module, how, count, mebibytes, rounds = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
if how == "kept":
    importlib.import_module(module).keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def churn(times):
    for _ in range(times):
        del [bytearray(b"x") * (mebibytes << 20) for _ in range(count)][:]
churn(5)
before = faults()
churn(rounds)
print(faults() - before)
"""


def _faults(module: str, how: str, mebibytes: int, rounds: int) -> int:
    command = [sys.executable, "-c", _CHURN, module, how, "4", str(mebibytes), str(rounds)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


@pytest.mark.skipif(
    "glibc" not in os.confstr_names and "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="no glibc"
)
@pytest.mark.parametrize(("module", "mebibytes", "rounds"), [("jlogd.daemon.malloc", 2, 50), ("cidr.memory", 4, 25)])
def test_freed_memory_is_used_again(module: str, mebibytes: int, rounds: int) -> None:
    """Four blocks a round: taken anew they are 100,000 pages."""
    kept, plain = (_faults(module, how, mebibytes, rounds) for how in ("kept", "plain"))
    print(f"page faults: {kept} kept, {plain} otherwise")
    assert kept < 8_000 < plain


def test_a_c_library_that_knows_no_such_thing_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _name: object())
    memory.keep_freed(1 << 20, 1 << 20, 1)
