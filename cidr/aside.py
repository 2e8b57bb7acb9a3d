"""Files of a commit that lacks others, set aside: out of the way of every count, and not deleted.

    <base_dir>/unfinished-1/minute/20080424/spam.20080424T200000.v4.minute.manager1-3-1207.parquet

Whether such a commit never happened (its writer was stopped in it) or happened and lost a file since, its files alone
do not tell: both look the same. Under `unfinished-N` they keep their paths, so that copying them back over the base
directory, with the file that was lacking, puts them where they were.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cidr.files import Files


def place(base: Path) -> Path:
    """Where the next ones go."""
    number = 1
    while (aside := base / f"unfinished-{number}").exists():
        number += 1
    return aside


def set_aside(base: Path, paths: Iterable[str], files: Files) -> Path | None:
    """Move files durably, and say where they are; None when there were none."""
    wanted = list(paths)
    if not wanted:
        return None
    aside = place(base)
    for path in wanted:
        files.make_directory((aside / path).parent)
        files.rename(base / path, aside / path)
    parents = {Path(path).parent for path in wanted}
    # The new names first: stopped in between, a file may be found under both, never under none.
    for directory in [*sorted(aside / parent for parent in parents), *sorted(base / parent for parent in parents)]:
        files.sync_directory(directory)
    return aside


__all__ = ["place", "set_aside"]
