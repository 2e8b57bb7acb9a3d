"""Parts of a path: PATH, PATH.part2, PATH.part3 and so on. One of them is written at a time."""

from __future__ import annotations


def part_path(target: str, number: int) -> str:
    """The path of a part, from 1."""
    return target if number == 1 else f"{target}.part{number}"


def part_number(path: str, target: str) -> int:
    """Which part of `target` the file at `path` is."""
    return int(path.removeprefix(f"{target}.part")) if path != target else 1
