"""Import, export, rebuild: what goes out comes in again as it was, and a wrong file changes nothing."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from cidr_logger_support import Killed, Steps, append, config, counted, drained, failed
from cidr_support import Maker
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from cidr.catalogue import Catalogue
from cidr.cli.main import cli
from cidr.columns import Counts
from cidr.errors import BadInput
from cidr.names import CATALOGUE
from cidr.segment import read
from cidr.store import Store
from cidr.transfer import export_file, import_file
from cidr.types import Family
from jlogd.errors import UsageError

T0 = 1_208_995_200


def cidr(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args], prog_name="cidr")


def exported(base: Path, kind: str, series: tuple[str, ...] = ()) -> bytes:
    import io

    out = io.BytesIO()
    export_file(out, base, kind=kind, series=list(series))
    return out.getvalue()


addresses = st.sampled_from([(Family.V4, n) for n in (0, 1, 0xC0000207)] + [(Family.V6, n) for n in (1, 1 << 127)])
rows = st.dictionaries(st.tuples(st.sampled_from(["a", "b.c-d"]), st.integers(1, 5), addresses), st.integers(-5, 9))


@settings(max_examples=20)
@given(rows, st.sampled_from(["csv", "parquet"]))
def test_what_is_exported_is_imported_as_it_was(found: dict, kind: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        base, copy = Path(directory) / "one", Path(directory) / "two"
        maker = Maker(base)
        base.mkdir()
        groups: dict = {}
        for (series, minute, (family, address)), number in found.items():
            groups.setdefault((series, minute, family), {})[address] = number
        for (series, minute, family), counts in sorted(groups.items()):
            maker.put(series, T0 + minute * 60, T0 + minute * 60 + 60, counts, family=family)
        file = Path(directory) / f"counts.{kind}"
        file.write_bytes(exported(base, kind))
        import_file(file, copy, kind=kind, interval=60)
        assert exported(copy, "csv") == exported(base, "csv")
        (copy / CATALOGUE).unlink()
        assert exported(copy, "csv") == exported(base, "csv")


def test_csv_is_what_it_says(tmp_path: Path) -> None:
    file = tmp_path / "counts.csv"
    file.write_text(
        "series,end,address,count\nspam,2008-04-24T00:15:00Z,10.0.0.1,5\nspam,2008-04-24T02:15:00+02:00,10.0.0.1,2\n"
        "spam,2008-04-24T00:15:00,::ffff:10.0.0.2,-1\nspam6,2008-04-24T00:15:00Z,2001:DB8::1,3\n"
    )
    assert cidr("import", file, "--base-dir", tmp_path / "s", "--interval", "15m").exit_code == 0
    out = cidr("export", "--base-dir", tmp_path / "s")
    assert out.stdout == (
        "series,end,address,count,start,covered\n"
        "spam,2008-04-24T00:15:00Z,10.0.0.1,7,2008-04-24T00:00:00Z,\n"
        "spam,2008-04-24T00:15:00Z,10.0.0.2,-1,2008-04-24T00:00:00Z,\n"
        "spam6,2008-04-24T00:15:00Z,2001:db8::1,3,2008-04-24T00:00:00Z,\n"
    )
    assert "3 rows of 2 intervals" in out.stderr
    assert cidr("import", file, "--base-dir", tmp_path / "s").exit_code == 2  # not twice by mistake
    assert cidr("import", file, "--base-dir", tmp_path / "s", "--interval", "15m", "--again").exit_code == 0
    assert counted(tmp_path / "s", "spam") == {"10.0.0.1": 14, "10.0.0.2": -2}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "line 1: .*accepted: series,end,address,count"),
        ("series,end,address,count\nspam,2008-04-24,10.0.0.1\n", "line 2: 3 columns"),
        ("series,end,address,count\nsp am,2008-04-24,10.0.0.1,1\n", "line 2: .*cannot name a series"),
        ("series,end,address,count\nspam,yesterday,10.0.0.1,1\n", "line 2: end yesterday"),
        ("series,end,address,count\nspam,2008-04-24,10.0.0.256,1\n", "line 2: 10.0.0.256"),
        ("series,end,address,count\nspam,2008-04-24,10.0.0.1,1.5\n", "line 2: 1.5"),
        ("series,end,address,count\nspam,2008-04-24,10.0.0.1,99999999999999999999\n", "line 2: 9999"),
    ],
)
def test_a_wrong_file_is_refused_whole_with_its_line(tmp_path: Path, text: str, reason: str) -> None:
    good = "spam,2008-04-24,10.0.0.1,1\n"
    file = tmp_path / "x.csv"
    file.write_text(text)
    with pytest.raises(BadInput, match=reason):
        import_file(file, tmp_path / "s", kind="csv", interval=60)
    assert not (tmp_path / "s").exists(), good


def test_silk_text_goes_in_and_out(tmp_path: Path) -> None:
    file = tmp_path / "bag.txt"
    file.write_text("            key|   counter|\n      10.0.0.1|         5|\n   192.0.2.9|   7\n")
    base = tmp_path / "s"
    result = cidr("import", file, "--base-dir", base, "--series", "spam", "--end", "2008-04-24", "--interval", "1d")
    assert (result.exit_code, result.stdout) == (0, "2 rows in 1 interval imported\n")
    assert exported(base, "silk", ("spam",)) == b"10.0.0.1|5\n192.0.2.9|7\n"
    assert cidr("import", file, "--base-dir", base, "--series", "spam").exit_code == 2
    with pytest.raises(BadInput, match="line 1"):
        bad = tmp_path / "bad.txt"
        bad.write_text("10.0.0.1|5\n10.0.0.2\n".replace("10.0.0.1|5", "10.0.0.1 5|1"))
        import_file(bad, base, kind="silk", interval=60, series="x", end=T0)


def test_the_first_row_of_a_bag_is_no_title(tmp_path: Path) -> None:
    file = tmp_path / "bag.txt"
    for number, line in enumerate(("::1|5", "10.0.0.1|5", " 10.0.0.1 | 5 |")):
        file.write_text(f"{line}\n")
        assert import_file(file, tmp_path / str(number), kind="silk", interval=60, series="x", end=T0).rows == 1
    for line in ("10.0.0.1", "10.0.0.1|x", "10.0.0.1|1.5", "::1|", "a|5", "-|5"):
        file.write_text(f"{line}\n10.0.0.2|5\n")
        with pytest.raises(BadInput, match="line 1"):
            import_file(file, tmp_path / "s", kind="silk", interval=60, series="x", end=T0)
    for title in ("key|counter|", "--------+---", "|records|", "sIP|"):
        file.write_text(f"{title}\n10.0.0.2|5\n")
        assert import_file(file, tmp_path / title[:3], kind="silk", interval=60, series="x", end=T0).rows == 1


def test_an_import_beside_a_logger_is_refused(tmp_path: Path) -> None:
    append(tmp_path, [failed("192.0.2.7")])
    drained(config(tmp_path))
    file = tmp_path / "x.csv"
    file.write_bytes(exported(tmp_path / "store", "csv"))
    with pytest.raises(UsageError, match="was counted by"):
        import_file(file, tmp_path / "store", kind="csv", interval=60)
    assert counted(tmp_path / "store") == {"192.0.2.7": 1}


def test_an_import_into_what_was_imported_and_condensed_adds_up(tmp_path: Path) -> None:
    base = tmp_path / "s"
    for number in (1, 2):
        file = tmp_path / f"{number}.csv"
        file.write_text(f"series,end,address,count\nspam,2008-04-24T00:01:00Z,10.0.0.1,{number}\n")
        import_file(file, base, kind="csv", interval=60)
        assert cidr("maintain", "--base-dir", base).exit_code == 0
    assert counted(base, "spam") == {"10.0.0.1": 3}


def test_an_import_leaves_the_zone_of_a_store_as_it_is(tmp_path: Path) -> None:
    base = tmp_path / "s"
    for number, (zone, then) in enumerate(
        (("Europe/Berlin", "Europe/Berlin"), ("", "Europe/Berlin"), ("UTC", "Europe/Berlin"))
    ):
        file = tmp_path / f"{number}.csv"
        file.write_text(f"series,end,address,count\nspam,2008-04-24T00:0{number}:00,10.0.0.1,1\n")
        import_file(file, base, kind="csv", interval=60, zone=zone)
        store = Store(base)
        assert str(store.zone) == then
        store.close()


def test_a_bag_is_the_sum_of_all_time_and_holds_nothing_negative(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    for minute, number in enumerate((5, 2, -1)):
        maker.put("spam", T0 + minute * 60, T0 + minute * 60 + 60, {0x0A000001: number})
    assert exported(tmp_path, "silk", ("spam",)) == b"10.0.0.1|6\n"
    maker.put("spam", T0 + 300, T0 + 360, {0x0A000001: -7})
    with pytest.raises(UsageError, match="no negative counts"):
        exported(tmp_path, "silk", ("spam",))


def test_a_crash_of_an_import_leaves_all_or_nothing(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    lines = [f"spam,2008-04-24T00:{minute:02d}:00Z,10.0.0.{minute},1\n" for minute in range(1, 4)]
    file.write_text("series,end,address,count\n" + "".join(lines))
    whole = {f"10.0.0.{minute}": 1 for minute in range(1, 4)}
    steps = Steps()
    import_file(file, tmp_path / "whole", kind="csv", interval=60, files=steps)
    for stop_at in range(1, steps.done + 1):
        base = tmp_path / str(stop_at)
        with pytest.raises(Killed):
            import_file(file, base, kind="csv", interval=60, files=Steps(stop_at))
        before = counted(base, "spam") if base.exists() else {}
        assert before in ({}, whole)
        result = cidr("import", file, "--base-dir", base)
        assert result.exit_code in (0, 2), result.output  # 2: it is in already
        assert counted(base, "spam") == whole


def test_rebuild_makes_the_catalogue_again(tmp_path: Path) -> None:
    append(tmp_path, [failed("192.0.2.7"), failed("2001:db8::1")])
    drained(config(tmp_path))
    base = tmp_path / "store"
    before = counted(base)
    (base / CATALOGUE).unlink()
    result = cidr("rebuild", "--base-dir", base)
    assert (result.exit_code, result.stdout.split(";")[0]) == (0, "2 segments of 1 series are in the catalogue")
    assert counted(base) == before
    append(tmp_path, [failed("192.0.2.7")])
    drained(config(tmp_path))  # goes on where it was
    assert counted(base) == before | {"192.0.2.7": 2}


def test_rebuild_names_what_is_damaged(tmp_path: Path) -> None:
    append(tmp_path, [failed("192.0.2.7"), failed("2001:db8::1")])
    drained(config(tmp_path))
    file = next((tmp_path / "store").rglob("*.v4.*.parquet"))
    file.write_bytes(file.read_bytes()[:-10])
    result = cidr("rebuild", "--base-dir", tmp_path / "store")
    assert result.exit_code == 1
    assert file.name in result.stderr
    assert counted(tmp_path / "store") == {"2001:db8::1": 1}


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    from cidr.errors import SegmentDamaged

    maker = Maker(tmp_path)
    segment = maker.put("spam", T0, T0 + 60, {n * 37: n for n in range(1, 2000)})
    path = tmp_path / segment.path
    whole = path.read_bytes()
    sound: Counts = read(path, Family.V4)
    for at in range(4, len(whole) - 1200, 211):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            found = read(path, Family.V4)
        except SegmentDamaged:
            continue
        assert found.low.tolist() == sound.low.tolist(), at
        assert found.counts.tolist() == sound.counts.tolist(), at


def test_maintain_tells_what_it_does(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    for minute in range(3):
        maker.put("spam", T0 + minute * 60, T0 + minute * 60 + 60, {minute: 1})
    maker.catalogue().close()
    dry = cidr("maintain", "--base-dir", tmp_path, "--dry-run")
    assert dry.exit_code == 0
    assert "would return" in dry.stdout
    assert all("about " in line for line in dry.stdout.splitlines() if "condense" in line)
    assert len(list(tmp_path.rglob("*.parquet"))) == 3
    done = cidr("maintain", "--base-dir", tmp_path)
    assert "condense" in done.stdout
    assert counted(tmp_path, "spam") == {"0.0.0.0": 1, "0.0.0.1": 1, "0.0.0.2": 1}
    assert cidr("maintain", "--base-dir", tmp_path).stdout.splitlines()[0] == "nothing to do"
    assert '"what":"' not in cidr("maintain", "--base-dir", tmp_path, "--json").stdout
    assert cidr("maintain", "--base-dir", tmp_path / "no").exit_code == 1


def test_segments_hold_four_bytes_an_address_or_less(tmp_path: Path, rng: object) -> None:
    maker = Maker(tmp_path)
    found = {rng.getrandbits(32): rng.choice([1, 1, 1, 2, 5]) for _ in range(20_000)}  # type: ignore[attr-defined]
    segment = maker.put("spam", T0, T0 + 60, found)
    assert segment.bytes / segment.rows <= 4
    table = pq.read_table(tmp_path / segment.path)
    assert table.schema.names == ["address", "count"]
    assert table.column("address").to_pylist() == sorted(found)


def test_duckdb_reads_the_segments(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    maker = Maker(tmp_path)
    maker.put("spam", T0, T0 + 60, {0x0A000001: 5, 0x0A000102: 7, 0x0A000103: 1})
    maker.put("spam", T0 + 60, T0 + 120, {0x0A000001: 1})
    query = _example("sql").replace("var/aslogger", str(tmp_path))
    rows = duckdb.sql(query).fetchall()
    assert rows == [("10.0.1.0/24", 8), ("10.0.0.0/24", 6)]


def _example(language: str) -> str:
    """The first block of that language in docs/cidr-storage.md."""
    text = (Path(__file__).parent.parent / "docs" / "cidr-storage.md").read_text()
    return text.partition(f"```{language}\n")[2].partition("```")[0]


def test_an_import_leaves_the_zone_of_a_store(tmp_path: Path) -> None:
    """It is of times that name none, and of the days of a new store only."""
    for number, zone, exit_code in ((1, "Europe/Berlin", 0), (1, "Asia/Tokyo", 2), (2, "Asia/Tokyo", 0)):
        file = tmp_path / "counts.csv"
        file.write_text(f"series,end,address,count\nspam{number},2008-04-24T09:15:00,10.0.0.1,5\n")
        told = ("import", file, "--base-dir", tmp_path / "s", "--interval", "15m", "--zone", zone)
        assert cidr(*told).exit_code == exit_code
        with closing(Catalogue.read(tmp_path / "s" / CATALOGUE)) as catalogue:
            assert catalogue.setting("zone") == "Europe/Berlin"
    assert b"spam2,2008-04-24T00:15:00Z" in exported(tmp_path / "s", "csv")
