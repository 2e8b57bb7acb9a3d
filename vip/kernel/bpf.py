"""bpf(2) through ctypes, and as much of an assembler as one small program needs. No compiler, no library.

    instruction   u8 code   u4 destination | u4 source << 4   s16 offset   s32 immediate       (8 bytes)
    bpf(command, attributes, size)   a union of structs, 64-bit pointers in it; what is not given is zero

The libraries there are for Python bring LLVM with them (bcc) or a shared object that a distribution may not have
(libbpf); what is needed here is four commands. Raises `OSError`.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import struct

# The number of the system call, by machine; others are said not to have the gate.
_SYSCALLS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "ppc64le": 361, "s390x": 351}

MAP_CREATE = 0
MAP_UPDATE = 2
MAP_DELETE = 3
PROGRAM_LOAD = 5

MAP_HASH = 1
MAP_ARRAY = 2
MAP_MMAPABLE = 1 << 10
PROGRAM_SCHED_CLS = 3

# All of the union that the kernel may look at; what is behind the known part must be zero.
_ATTRIBUTES_BYTES = 128
_LOG_BYTES = 64 << 10
# Our code only calls helpers that any licence may call; Apache-2.0 is none that the kernel takes for GPL-compatible.
_LICENSE = b"Apache-2.0"

_libc = ctypes.CDLL(None, use_errno=True)


class Rejected(OSError):
    """The verifier of the kernel did not take the program; `log` is what it said."""

    def __init__(self, number: int, log: str) -> None:
        super().__init__(number, os.strerror(number))
        self.log = log


def bpf(command: int, attributes: bytes) -> int:
    """The system call. Raises `OSError`."""
    number = _SYSCALLS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"no number of bpf(2) is known for {platform.machine()}")
    buffer = ctypes.create_string_buffer(attributes, _ATTRIBUTES_BYTES)
    result = int(_libc.syscall(number, command, buffer, _ATTRIBUTES_BYTES))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def create_map(kind: int, key_bytes: int, value_bytes: int, entries: int, flags: int = 0, name: str = "") -> int:
    """A new map; its descriptor, which is not inherited."""
    attributes = struct.pack("=IIIII", kind, key_bytes, value_bytes, entries, flags)
    attributes += struct.pack("=II16s", 0, 0, name.encode())
    return bpf(MAP_CREATE, attributes)


class HashSet:
    """A hash map used as a set of keys of one length. One thread changes it."""

    def __init__(self, key_bytes: int, entries: int, name: str) -> None:
        self.fd = create_map(MAP_HASH, key_bytes, 1, entries, name=name)
        self._key = ctypes.create_string_buffer(key_bytes)
        self._value = ctypes.create_string_buffer(b"\1", 1)
        # Prepared once: ten thousand keys are ten thousand system calls of a few microseconds. What a command does not
        # use must be zero: the removal has no value.
        key, value = ctypes.addressof(self._key), ctypes.addressof(self._value)
        self._adding = ctypes.create_string_buffer(struct.pack("=IIQQQ", self.fd, 0, key, value, 0), _ATTRIBUTES_BYTES)
        self._removing = ctypes.create_string_buffer(struct.pack("=IIQ", self.fd, 0, key), _ATTRIBUTES_BYTES)
        self._number = _SYSCALLS[platform.machine()]

    def add(self, key: bytes) -> None:
        """Raises `OSError` (E2BIG when full)."""
        self._call(MAP_UPDATE, self._adding, key)

    def discard(self, key: bytes) -> None:
        try:
            self._call(MAP_DELETE, self._removing, key)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    def close(self) -> None:
        os.close(self.fd)

    def _call(self, command: int, attributes: ctypes.Array[ctypes.c_char], key: bytes) -> None:
        ctypes.memmove(self._key, key, len(key))
        if _libc.syscall(self._number, command, attributes, _ATTRIBUTES_BYTES) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class SharedNumber:
    """One u64 that the program reads and this process stores to, by one instruction and without a system call.

    Stored through ctypes: it writes eight aligned bytes at once, where `struct` would write them one by one and the
    program could see half of a new number.
    """

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._number: ctypes.c_uint64 | None = ctypes.c_uint64.from_buffer(self._memory)

    def get(self) -> int:
        return self._number.value if self._number is not None else 0

    def set(self, value: int) -> None:
        if self._number is not None:
            self._number.value = value

    def close(self) -> None:
        self._number = None  # lets go of the memory
        self._memory.close()


def load(program: bytes, name: str) -> int:
    """Load a program for traffic control; its descriptor. Raises `Rejected`, `OSError`."""
    code = ctypes.create_string_buffer(program, len(program))
    license_name = ctypes.create_string_buffer(_LICENSE)
    try:
        return bpf(PROGRAM_LOAD, _load_attributes(code, license_name, name, None))
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS):
            raise
        first = error
    log = ctypes.create_string_buffer(_LOG_BYTES)
    try:  # once more, only to hear why
        return bpf(PROGRAM_LOAD, _load_attributes(code, license_name, name, log))
    except OSError:
        raise Rejected(first.errno or errno.EINVAL, log.value.decode("ascii", "replace").strip()) from None


def _load_attributes(
    code: ctypes.Array[ctypes.c_char],
    license_name: ctypes.Array[ctypes.c_char],
    name: str,
    log: ctypes.Array[ctypes.c_char] | None,
) -> bytes:
    level, size, where = (1, _LOG_BYTES, ctypes.addressof(log)) if log is not None else (0, 0, 0)
    head = struct.pack(
        "=IIQQ", PROGRAM_SCHED_CLS, len(code) // 8, ctypes.addressof(code), ctypes.addressof(license_name)
    )
    return head + struct.pack("=IIQII16s", level, size, where, 0, 0, name.encode())


# ---- the assembler ---------------------------------------------------------------------------------------------------

R0, R1, R2, R3, R4, _, R6, R7, R8, _, R10 = range(11)

_BYTE, _HALF, _WORD, _DOUBLE = 0x10, 0x08, 0x00, 0x18
SIZES = {1: _BYTE, 2: _HALF, 4: _WORD, 8: _DOUBLE}
_PSEUDO_MAP_FD = 1
_PSEUDO_MAP_VALUE = 2


class Assembler:
    """Instructions in order, with labels for what jumps forward."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int, int, str]] = []
        self._labels: dict[str, int] = {}

    def move(self, target: int, value: int) -> None:
        self._add(0xB7, target, immediate=value)

    def copy(self, target: int, source: int) -> None:
        self._add(0xBF, target, source)

    def plus(self, target: int, value: int) -> None:
        self._add(0x07, target, immediate=value)

    def load(self, size: int, target: int, source: int, offset: int) -> None:
        self._add(0x61 | SIZES[size], target, source, offset)

    def store(self, size: int, target: int, offset: int, value: int) -> None:
        self._add(0x62 | SIZES[size], target, offset=offset, immediate=value)

    def move_long(self, target: int, value: int) -> None:
        """64 bits."""
        low, high = struct.unpack("=ii", struct.pack("=Q", value))
        self._add(0x18, target, immediate=low)
        self._add(0, 0, immediate=high)

    def map_value(self, target: int, fd: int) -> None:
        """The address of the first value of an array."""
        self._add(0x18, target, _PSEUDO_MAP_VALUE, immediate=fd)
        self._add(0, 0)

    def map_itself(self, target: int, fd: int) -> None:
        self._add(0x18, target, _PSEUDO_MAP_FD, immediate=fd)
        self._add(0, 0)

    def call(self, helper: int) -> None:
        self._add(0x85, 0, immediate=helper)

    def jump_equal(self, register: int, value: int, label: str) -> None:
        self._add(0x15, register, immediate=value, label=label)

    def jump_unequal(self, register: int, value: int, label: str) -> None:
        self._add(0x55, register, immediate=value, label=label)

    def jump_less(self, register: int, other: int, label: str) -> None:
        """Unsigned."""
        self._add(0xAD, register, other, label=label)

    def jump_unequal_32(self, register: int, value: int, label: str) -> None:
        """Of the lower half of the register."""
        self._add(0x56, register, immediate=value, label=label)

    def leave(self, value: int) -> None:
        self.move(R0, value)
        self._add(0x95, 0)

    def label(self, name: str) -> None:
        self._labels[name] = len(self._code)

    def program(self) -> bytes:
        pieces = []
        for place, (code, target, source, offset, immediate, label) in enumerate(self._code):
            if label:
                offset = self._labels[label] - place - 1
            pieces.append(struct.pack("=BBhi", code, target | source << 4, offset, immediate))
        return b"".join(pieces)

    def _add(
        self, code: int, target: int, source: int = 0, offset: int = 0, immediate: int = 0, label: str = ""
    ) -> None:
        self._code.append((code, target, source, offset, immediate, label))
