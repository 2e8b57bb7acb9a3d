"""A commit counts whole or not at all, and a segment is as large in a commit of thousands as in one of its own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from cidr_logger_support import Killed, Steps, counted
from cidr_support import FastFiles, counts_of
from msgspec import structs

from cidr.catalogue import Catalogue
from cidr.commits import Commits, Piece
from cidr.errors import CatalogueBroken
from cidr.names import CATALOGUE, commit_of, segment_files, segment_path
from cidr.rebuild import rebuild
from cidr.segment import encode, read, read_header
from cidr.survey import survey
from cidr.types import Family

START = 1_208_995_200
# The number of segments is written in each: some digits more, in two numbers of the commit and a length.
DIGITS = 16
# A segment of one row is about a kilobyte, mostly what Parquet and the footer say around it; other writers say more.
ONE_ROW_BYTES = 2_000


class BeforeTheCatalogue(FastFiles):
    """Stops when all segments are there and the catalogue does not know."""

    def step(self, what: str, path: Path) -> None:
        if what == "before the catalogue":
            raise Killed(what)


def _pieces(number: int) -> list[Piece]:
    counts = counts_of(Family.V4, {1: 1})
    starts = [START + 60 * n for n in range(number)]
    return [Piece("ssh", Family.V4, start, start + 60, "full", ((start, start + 60),), counts) for start in starts]


def _write(base: Path, number: int, files: FastFiles | Steps) -> None:
    base.mkdir(exist_ok=True)
    catalogue = Catalogue.create(base)
    try:
        Commits(base, catalogue, "test", "UTC", files).write(_pieces(number), {"log": 7})
    finally:
        catalogue.close()


def _sizes(base: Path) -> list[int]:
    return [(base / path).stat().st_size for path in segment_files(base)]


def test_a_segment_does_not_grow_with_its_commit(tmp_path: Path) -> None:
    sizes = {}
    for number in (1, 20, 400):
        _write(tmp_path / str(number), number, FastFiles())
        sizes[number] = _sizes(tmp_path / str(number))
        assert len(sizes[number]) == number
    assert max(sizes[400]) <= max(sizes[20]) + DIGITS <= max(sizes[1]) + 2 * DIGITS
    assert sum(sizes[400]) < 400 * ONE_ROW_BYTES


def _left_by_a_crash(base: Path, old: bool) -> list[str]:
    """Three segments that no catalogue knows; `old`: as the first stores wrote them, each naming all."""
    with pytest.raises(Killed):
        _write(base, 3, BeforeTheCatalogue())
    paths = sorted(segment_files(base))
    for path in paths if old else []:
        header = structs.replace(read_header(base / path), siblings=paths, together=0, paths_digest="")
        (base / path).write_bytes(encode(header, read(base / path, Family.V4))[1])
        assert read_header(base / path).siblings == paths
    return paths


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("by_survey", [False, True])
def test_a_whole_commit_that_is_in_no_catalogue_counts(tmp_path: Path, old: bool, by_survey: bool) -> None:
    _left_by_a_crash(tmp_path, old)
    if by_survey:
        assert not survey(tmp_path).torn
        (tmp_path / CATALOGUE).unlink()
    else:
        _start_again(tmp_path, 1)
    assert counted(tmp_path) == {"0.0.0.1": 3}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("lacking", [0, 1, 2])
def test_a_commit_that_lacks_one_never_happened(tmp_path: Path, old: bool, lacking: int) -> None:
    paths = _left_by_a_crash(tmp_path, old)
    (tmp_path / paths.pop(lacking)).unlink()
    assert survey(tmp_path).torn == paths
    _start_again(tmp_path, 0)
    assert list(segment_files(tmp_path)) == []


def _start_again(base: Path, number: int) -> None:
    catalogue = Catalogue.create(base)
    Commits(base, catalogue, "test", "UTC", FastFiles())
    assert catalogue.origin("test")[1] == number
    catalogue.close()


@pytest.mark.parametrize("old", [False, True])
def test_one_that_is_damaged_is_not_lacking(tmp_path: Path, old: bool) -> None:
    paths = _left_by_a_crash(tmp_path, old)
    (tmp_path / paths[0]).write_bytes(b"PAR1 and no more")
    found = survey(tmp_path)
    assert (found.torn, [path for path, _ in found.damaged]) == ([], paths[:1])
    assert [segment.path for segment in found.segments] == paths[1:]


def test_another_file_in_the_place_of_one_does_not_make_it_whole(tmp_path: Path) -> None:
    paths = _left_by_a_crash(tmp_path, old=False)
    (tmp_path / paths[0]).rename(tmp_path / segment_path("ham", Family.V4, "minute", START + 60, "test", 1, 1))
    assert len(survey(tmp_path).torn) == 3


def test_the_name_tells_the_commit() -> None:
    path = segment_path("a-1-2.b", Family.V6, "hour", START, "west_1", 3, 1207)
    assert commit_of(path) == ("west_1", 3, 1207)
    assert commit_of(path.removesuffix(".parquet") + "-late.parquet") == ("west_1", 3, 1207)
    for other in ("spam.parquet", "minute/x/spam.a-1.parquet", "minute/x/spam.a-1-x.parquet", path + ".tmp"):
        assert commit_of(other) is None


def test_a_commit_is_durable_before_the_catalogue_names_it(tmp_path: Path) -> None:
    told: list[tuple[str, Path]] = []

    class Told(FastFiles):
        def step(self, what: str, path: Path) -> None:
            told.append((what, path))

        def sync_directory(self, path: Path) -> None:
            self.step("sync directory", path)

    _write(tmp_path, 3, Told())
    words = [what for what, _ in told]
    renamed = {path.parent: at for at, (what, path) in enumerate(told) if what == "rename"}
    synced = {path: at for at, (what, path) in enumerate(told) if what == "sync directory"}
    named = words.index("before the catalogue")
    assert words.count("rename") == words.count("sync") == 3
    assert renamed
    for directory, at in renamed.items():
        assert at < synced[directory] < named


def test_a_catalogue_older_than_its_segments_is_refused_with_advice(tmp_path: Path) -> None:
    _write(tmp_path, 1, FastFiles())
    old = (tmp_path / CATALOGUE).read_bytes()
    for _ in range(2):
        _write(tmp_path, 1, FastFiles())
    (tmp_path / CATALOGUE).write_bytes(old)
    catalogue = Catalogue.create(tmp_path)
    with pytest.raises(CatalogueBroken, match=r"has not heard of.*cidr rebuild"):
        Commits(tmp_path, catalogue, "test", "UTC", FastFiles())
    catalogue.close()
    assert len(list(segment_files(tmp_path))) == 3


def test_of_two_tries_at_one_commit_the_later_counts(tmp_path: Path) -> None:
    catalogue = Catalogue.create(tmp_path)
    old = Commits(tmp_path, catalogue, "test", "UTC", BeforeTheCatalogue())
    new = Commits(tmp_path, catalogue, "test", "UTC", BeforeTheCatalogue())
    for commits, number in ((old, 1), (new, 2)):  # the old one wakes up and writes after it was replaced
        with pytest.raises(Killed):
            commits.write(_pieces(number), {"log": number})
    Commits(tmp_path, catalogue, "test", "UTC", FastFiles())
    assert {commit_of(path) for path in segment_files(tmp_path)} == {("test", new.epoch, 1)}
    assert catalogue.positions("test") == {"log": 2}
    catalogue.close()
    assert counted(tmp_path) == {"0.0.0.1": 2}


class Noted(FastFiles):
    """Says which directories are synced before the catalogue is written."""

    def __init__(self) -> None:
        self.synced: list[Path] = []

    def sync_directory(self, path: Path) -> None:
        self.synced.append(path)


def _names_only_what_is_durable(
    monkeypatch: pytest.MonkeyPatch, method: str, base: Path, paths: Iterable[str]
) -> Noted:
    """The directories of these must be synced when that method of the catalogue is called."""
    noted = Noted()
    do = getattr(Catalogue, method)

    def checked(self: Catalogue, *told: Any) -> None:
        assert {(base / path).parent for path in paths} <= set(noted.synced)
        do(self, *told)

    monkeypatch.setattr(Catalogue, method, checked)
    return noted


def test_what_is_taken_over_is_durable_before_the_catalogue_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process was stopped after the last rename; the names may be in no directory after a power cut."""
    noted = _names_only_what_is_durable(monkeypatch, "commit", tmp_path, _left_by_a_crash(tmp_path, old=False))
    catalogue = Catalogue.create(tmp_path)
    Commits(tmp_path, catalogue, "test", "UTC", noted)
    catalogue.close()
    assert counted(tmp_path) == {"0.0.0.1": 3}


def test_what_a_rebuild_finds_is_durable_before_the_catalogue_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = _names_only_what_is_durable(monkeypatch, "reset", tmp_path, _left_by_a_crash(tmp_path, old=False))
    rebuild(tmp_path, survey(tmp_path), noted)
    assert counted(tmp_path) == {"0.0.0.1": 3}
