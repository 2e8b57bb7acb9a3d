"""The kernel's half: addresses, lifetimes, the gate, the guard, announcing and probing. See `interface.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vip.kernel.interface import Kernel, KernelSettings


def open_kernel(settings: KernelSettings) -> Kernel:
    """The kernel of the network namespace of this process; it does nothing until `start`."""
    from vip.kernel.linux import LinuxKernel  # the guard imports this package, and must start fast and stay small

    return LinuxKernel(settings)
