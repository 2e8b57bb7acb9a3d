"""Orders to a manager: small files in its ledger's directory, so that whoever may write there may give them.

    <state>/manager/orders/<kind>-<random>.json        written beside, then renamed; gone when it is done

An order survives a restart of the manager, and one may be given while it does not run. Whoever gave it sees that it is
done by its file being gone.
"""

from __future__ import annotations

import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path

import msgspec

_log = logging.getLogger("jlogd.manager")

ORDERS_MAX = 1000
ORDER_BYTES_MAX = 16 << 10


class Resume(msgspec.Struct, frozen=True, tag="resume"):
    """Go on with a pull that stopped, at record `at`, or at the subscriber's own position."""

    node: str
    log: str
    at: int | None = None


class Decommission(msgspec.Struct, frozen=True, tag="decommission"):
    """Let go of the subscribers for good: pull nothing more once `drain`, if asked for, is through.

    It is kept: a manager that is started again does not make them anew. To use it again, remove the file.
    """

    manager: str
    drain: bool = False


Order = Resume | Decommission
_decoder = msgspec.json.Decoder(Order)


def give(ledger: Path, order: Order) -> Path:
    """Write an order down, durably; its file. Raises OSError."""
    directory = ledger / "orders"
    directory.mkdir(mode=0o750, exist_ok=True)
    kind = type(order).__name__.lower()
    path = directory / f"{kind}-{secrets.token_hex(8)}.json"
    beside = path.with_suffix(".new")
    with beside.open("wb") as file:
        file.write(msgspec.json.encode(order))
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
    return path


def given(ledger: Path) -> list[tuple[Path, Order]]:
    """The orders that are there, by name. What cannot be read is said once, and set aside."""
    directory = ledger / "orders"
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".json"))[:ORDERS_MAX]
    except FileNotFoundError:
        return []
    found: list[tuple[Path, Order]] = []
    for name in names:
        path = directory / name
        try:
            with path.open("rb") as file:
                found.append((path, _decoder.decode(file.read(ORDER_BYTES_MAX))))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            _log.error("%s is no order, and is set aside: %s", path, error)
            with suppress(OSError):
                path.rename(path.with_suffix(".bad"))
    return found


def withdraw(ledger: Path, kind: type[Order]) -> None:
    """Take back all orders of a kind."""
    for path, order in given(ledger):
        if isinstance(order, kind):
            done(path)


def done(path: Path) -> None:
    """An order is carried out."""
    with suppress(FileNotFoundError):
        path.unlink()
