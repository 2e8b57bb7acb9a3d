"""Files of ours in JSON or MessagePack whose bytes are no UTF-8: damage like any other, told by name.

The decoder answers bytes that are no UTF-8 with an error of its own, which is not that for what is no JSON.
"""

from __future__ import annotations

from pathlib import Path

import lmdb
import pytest

import jlogd
from cidr import receipts
from cidr.errors import SegmentDamaged
from jlogd.errors import FormatError
from jlogd.journal.spool import read_identity
from jlogd.manager import orders
from jlogd.manager.ledger import LmdbLedger


def test_an_order_is_set_aside(tmp_path: Path) -> None:
    good = orders.give(tmp_path, orders.Resume("east1", "mainlog"))
    bad = good.with_name("resume-0.json")
    bad.write_bytes(good.read_bytes().replace(b"east1", b"e\xffst1"))
    assert orders.given(tmp_path) == [(good, orders.Resume("east1", "mainlog"))]
    assert not bad.exists() and bad.with_suffix(".bad").exists()


def test_a_receipt_names_its_file(tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    path.write_bytes(b'{"log": "\xff", "next": 1}')
    with pytest.raises(SegmentDamaged, match=r"receipt\.json cannot be read"):
        receipts.read(path)


def test_a_ledger_says_that_it_cannot_be_read(tmp_path: Path) -> None:
    LmdbLedger(tmp_path).close()
    with lmdb.open(str(tmp_path), max_dbs=4) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"/a", b"\x92\xa1\xff\x01", db=environment.open_db(b"files", transaction))
    ledger = LmdbLedger(tmp_path)
    try:
        with pytest.raises(FormatError, match="cannot read"):
            ledger.file("/a")
    finally:
        ledger.close()


@pytest.mark.parametrize("bytes_there", [b'{"host": "\xff"}', b"[" * 100_000, b'{"a":' * 100_000])
def test_the_identities_of_a_spool_and_a_log_are_damaged(tmp_path: Path, bytes_there: bytes) -> None:
    jlogd.create(tmp_path / "log")
    (tmp_path / "log" / "log.json").write_bytes(bytes_there)
    with pytest.raises(FormatError, match=r"log\.json cannot be"):
        jlogd.open(tmp_path / "log")
    (tmp_path / ".spool.json").write_bytes(bytes_there)
    with pytest.raises(FormatError, match="identity of the spool cannot be read"):
        read_identity(tmp_path)
