"""`jlogctl export`: every form, any range, and files that are complete or not there."""

from __future__ import annotations

import io
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cli_support import done, failed, jlogctl, log_of_small_segments, process

import jlogd
from jlogd.journal.batch import Batch

RECORDS = [b"plain", b"", "ümlaut".encode(), b"\xff\xfe", b"two\nlines", *(b"record %d" % n for n in range(995))]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return log_of_small_segments(tmp_path / "spool" / "mainlog", RECORDS)


def damage(log: Path) -> None:
    segment = sorted(log.glob("*.seg"))[1]
    data = bytearray(segment.read_bytes())
    data[300] ^= 1
    segment.write_bytes(data)


def test_lines(log: Path, tmp_path: Path) -> None:
    wanted = b"".join(record + b"\n" for record in RECORDS)
    assert done(jlogctl("export", log)).raw == wanted
    file = tmp_path / "out.txt"
    file.write_bytes(b"old")
    assert done(jlogctl("export", log, "--output", file)).out == f"exported 1,000 records from mainlog to {file}\n"
    assert file.read_bytes() == wanted
    assert [path.name for path in tmp_path.iterdir()] == ["spool", "out.txt"] or not list(tmp_path.glob("*.part"))


def test_json(log: Path) -> None:
    objects = done(jlogctl("export", log, "--format", "json")).objects
    assert [one["sequence"] for one in objects] == list(range(1, 1001))
    assert objects[2]["record"] == "ümlaut" and objects[4]["record"] == "two\nlines"
    assert objects[3]["base64"] == "//4=" and "record" not in objects[3]
    assert datetime.fromisoformat(objects[0]["time"]) <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("options", "first", "last"),
    [
        (("--from", "50"), 50, 1000),
        (("--to", "50"), 1, 49),
        (("--from", "150", "--to", "250"), 150, 249),
        (("--from", "-10"), 991, 1000),
        (("--from", "-20", "--to", "-10"), 981, 990),
        (("--to", "end"), 1, 1000),
        (("--to", "9999"), 1, 1000),
        (("--to", "begin"), 1, 0),
        (("--from", "end"), 1, 0),
        (("--from", "5000"), 1, 0),
        (("--from", "-1h", "--to", "-0"), 1, 1000),
        (("--to", "-1h"), 1, 0),
    ],
)
@pytest.mark.parametrize("form", ["lines", "json"])
def test_a_range(log: Path, form: str, options: tuple[str, ...], first: int, last: int) -> None:
    ended = done(jlogctl("export", log, "--format", form, *options))
    if form == "json":
        assert [one["sequence"] for one in ended.objects] == list(range(first, last + 1))
    else:
        assert ended.raw == b"".join(record + b"\n" for record in RECORDS[first - 1 : last])


def test_ranges_of_time_are_cut_where_they_meet(log: Path) -> None:
    with jlogd.open(log) as opened:
        batches = [item for item in opened.subscriber() if isinstance(item, Batch)]
    middle = datetime.fromtimestamp(batches[5].append_time / 1e9, UTC).isoformat()
    before = done(jlogctl("export", log, "--to", middle)).raw
    after = done(jlogctl("export", log, "--from", middle)).raw
    assert before and after and before + after == b"".join(record + b"\n" for record in RECORDS)


def test_what_is_lost_is_told(log: Path) -> None:
    damage(log)
    ended = jlogctl("export", log)
    assert ended.code == 1 and "gap: " in ended.err and ", damaged: " in ended.err
    ended = jlogctl("export", log, "--format", "json")
    (gap,) = [one["gap"] for one in ended.objects if "gap" in one]
    assert ended.code == 1 and ended.err == "" and gap["reason"] == "damaged"
    assert len(ended.objects) - 1 + gap["count"] == 1000
    done(jlogctl("export", log, "--to", gap["first"]))
    assert jlogctl("export", log, "--format", "json", "--to", gap["first"] + 1).objects[-1]["gap"]["count"] == 1


def test_parquet(log: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "out.parquet"
    done(jlogctl("export", log, "--format", "parquet", "--output", file, "--from", "2"))
    table = parquet.read_table(file)
    assert table.column("record").to_pylist() == RECORDS[1:]
    assert table.column("sequence").to_pylist() == list(range(2, 1001))
    assert str(table.schema.field("time").type) == "timestamp[us, tz=UTC]"
    assert table.column("time").to_pylist()[-1].timestamp() == pytest.approx(datetime.now(UTC).timestamp(), abs=60)
    with process("export", log, "--format", "parquet") as piped:
        data, err = piped.communicate(timeout=60)
    assert piped.returncode == 0, err
    assert parquet.read_table(io.BytesIO(data)).column("record").to_pylist() == RECORDS
    done(jlogctl("export", log, "--format", "parquet", "--output", file, "--from", "end"))
    assert parquet.read_table(file).num_rows == 0


def test_parquet_in_groups_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("jlogd.cli.export.ROW_GROUP_BYTES", 50_000)
    path = tmp_path / "mainlog"
    done(jlogctl("create", path))
    with jlogd.open(path) as opened, opened.writer() as writer:
        for _ in range(30):
            writer.extend([b"x" * 100] * 100)
            writer.flush()
    done(jlogctl("export", path, "--format", "parquet", "--output", tmp_path / "out"))
    found = parquet.ParquetFile(tmp_path / "out").metadata
    assert found.num_rows == 3000 and found.num_row_groups > 5


def test_without_pyarrow_the_extra_is_named(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    failed(
        jlogctl("export", log, "--format", "parquet", "--output", "x"),
        3,
        "pip install 'jlogd[parquet]'",
        "'.[parquet]' in a",
    )


def test_a_file_is_complete_or_as_it_was(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "out.txt"
    file.write_bytes(b"old")
    failed(jlogctl("export", tmp_path / "missing", "--output", file), 1, "there is no log at")
    failed(jlogctl("export", log, "--output", tmp_path), 2, "is a directory; name a file")
    failed(jlogctl("export", log, "--output", tmp_path / "no" / "x"), 2, "there is no directory")
    (log / "log.json").write_bytes(b"{}")
    failed(jlogctl("export", log, "--output", file), 3, "log.json")
    assert file.read_bytes() == b"old" and not list(tmp_path.glob(".*"))


def test_an_export_holds_nothing_and_leaves_nothing(log: Path) -> None:
    before = {path: path.read_bytes() for path in log.rglob("*") if path.is_file()}
    done(jlogctl("export", log))
    assert {path: path.read_bytes() for path in log.rglob("*") if path.is_file()} == before


def test_json_of_an_export_is_json(log: Path) -> None:
    for line in done(jlogctl("export", log, "--format", "json")).lines:
        json.loads(line)


def test_an_end_before_the_start_and_a_directory_that_is_not_there(log: Path, tmp_path: Path) -> None:
    failed(jlogctl("export", log, "--from", "5", "--to", "2"), 2, "--to 2 is before --from 5")
    failed(jlogctl("export", log, "--from", "2024-05-02", "--to", "2024-05-01"), 2, "is before --from 2024-05-02")
    assert done(jlogctl("export", log, "--from", "5", "--to", "5")).raw == b""
    for form in ("lines", "json"):
        ended = jlogctl("export", log, "--format", form, "--output", tmp_path / "none" / "x")
        failed(ended, 2, f"--output {tmp_path}/none/x: there is no directory {tmp_path}/none")
        assert ".part" not in ended.err
