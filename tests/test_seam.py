"""The core reaches the disk through its seam only, and imports point one way. Both are read from the syntax trees.

Without the first, the model disk would test less than it seems to; without the second, the journal could not be used
alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "jlogd"
# The two modules that may talk to the operating system.
SEAM = {"disk.py", "locks.py"}
CORE = sorted(path for path in (PACKAGE / "journal").glob("**/*.py") if path.name not in SEAM)

# Modules that reach files, processes or the network.
FORBIDDEN_MODULES = {
    "os", "io", "mmap", "shutil", "tempfile", "fcntl", "posix", "socket", "subprocess", "signal", "select", "glob",
    "fileinput", "ctypes", "importlib", "linecache", "multiprocessing", "fasteners", "sqlite3", "lmdb", "dbm",
    "shelve", "zipfile", "tarfile", "gzip", "bz2", "lzma", "codecs", "asyncio",
}  # fmt: skip
# Builtins that open files, or run what this test cannot read.
FORBIDDEN_NAMES = {
    "open", "eval", "exec", "compile", "__import__",
}  # fmt: skip
# Methods of Path that touch a file and are nothing else.
FORBIDDEN_METHODS = {
    "read_bytes", "read_text", "write_bytes", "write_text", "touch", "stat", "lstat", "iterdir", "glob", "rglob",
    "is_file", "is_dir", "is_symlink", "is_mount", "samefile", "chmod", "lchmod", "symlink_to", "hardlink_to",
    "readlink", "resolve", "expanduser", "cwd", "home",
}  # fmt: skip
# Methods that both Path and the seam have: only a disk may be asked.
DISK_METHODS = {
    "mkdir", "rename", "unlink", "rmdir", "exists",
}  # fmt: skip

# A layer may import the layers above it in this table, and itself. Within a layer the packages do not know each other.
LAYERS: list[set[str]] = [
    {"access", "errors", "memory", "plain", "version"},
    {"journal"},
    {"writer", "subscriber", "spoolcheck"},
    {"log"},
    {"sources", "wire", "libjlog"},
    {"entry"},
    {"auditing", "manager"},
    {"daemon"},
    {"cli"},
]


def offences(source: str) -> list[str]:
    """What a module of the core does past the seam, as `line: what`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        found += [(node.lineno, f"imports {name}") for name in names if name.split(".")[0] in FORBIDDEN_MODULES]
        if isinstance(node, ast.Name) and node.id in FORBIDDEN_NAMES:
            found.append((node.lineno, f"uses {node.id}"))
        if isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_METHODS | DISK_METHODS | {"open", "replace"}:
            found += [(node.lineno, what) for what in _method_offence(node, source)]
    return [f"{line}: {what}" for line, what in sorted(found)]


def _method_offence(node: ast.Attribute, source: str) -> Iterator[str]:
    receiver = ast.unparse(node.value)
    last = receiver.split(".")[-1].split("(")[0]
    is_disk = last.strip("_").endswith("disk")
    if node.attr in FORBIDDEN_METHODS and not (node.attr == "stat" and last in ("self", "journal")):
        yield f"calls {receiver}.{node.attr}"
    if node.attr in DISK_METHODS and not is_disk:
        yield f"calls {receiver}.{node.attr} of something that is not a disk"
    # `open` is also what classes of the core are opened with; `replace` also a method of str and of dataclasses.
    if node.attr in ("open", "replace") and ("path" in last.lower() or last == "Path"):
        yield f"calls {receiver}.{node.attr}"


def imported(source: str) -> set[str]:
    """The parts of jlogd that a module imports, wherever in it, as their first name; `jlogd` for the package itself."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "jlogd":
            modules = [f"jlogd.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: imports are absolute here"
            modules = [node.module or ""]
        else:
            continue
        found |= {(*module.split("."), "")[1] or "jlogd" for module in modules if module.split(".")[0] == "jlogd"}
    return found


def allowed(part: str) -> set[str]:
    """What `part` of jlogd may import."""
    level = next((number for number, layer in enumerate(LAYERS) if part in layer), None)
    assert level is not None, f"jlogd/{part} has no place in LAYERS yet"
    return set().union(*LAYERS[:level], {part})


# ---- the core ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_core_uses_the_seam_only(path):
    assert offences(path.read_text()) == []


def test_the_core_is_found():
    assert {"batch.py", "journal.py", "cursor.py", "tail.py"} <= {path.name for path in CORE}


@pytest.mark.parametrize(
    "source",
    [
        "import os", "import os.path", "from os import path", "import io as x", "from pathlib import os; import mmap",
        "def f():\n    import shutil", "open('x')", "with open('x') as f: pass", "x = open", "__import__('os')",
        "path.read_bytes()", "Path('x').write_text('')", "self._path.unlink()", "layout.root.mkdir()", "a.b.exists()",
        "path.rename(other)", "path.open('rb')", "Path.open(path)", "path.with_name('x').touch()", "self.path.stat()",
        "path.replace(other)", "[p for p in root.iterdir()]", "root.rmdir()", "root.resolve()", "eval('open')",
    ],
)  # fmt: skip
def test_every_way_past_the_seam_is_seen(source):
    assert offences(source)


@pytest.mark.parametrize(
    "source",
    [
        "disk.unlink(path)", "self._disk.mkdir(path)", "view.disk.exists(path)", "self.disk.rename(a, b)",
        "disk.open(path, 'read')", "Journal.open(path)", "text.replace('a', 'b')", "replace(head, rolling=True)",
        "from pathlib import Path", "import time, hashlib", "path.with_name('x').parent / 'y'", "journal.stat()",
        "hold.replace(position=p)",
    ],
)  # fmt: skip
def test_the_seam_itself_is_not(source):
    assert offences(source) == []


# ---- one way -------------------------------------------------------------------------------------------------------


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.glob("**/*.py") if path.relative_to(PACKAGE).parts != ("__init__.py",))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    wrong = imported(path.read_text()) - allowed(part) - _exceptions(path)
    assert not wrong, f"jlogd.{part} must not know {sorted(wrong)}"


def _exceptions(path: Path) -> set[str]:
    # Commands use the library as its users do; a log's address decides late which of the two kinds it is.
    return {"cli": {"jlogd"}}.get(path.relative_to(PACKAGE).parts[0], set())


def test_the_import_check_sees_every_form():
    source = "import jlogd\nfrom jlogd import cli\nimport jlogd.wire.x as c\ndef f():\n    from jlogd.daemon import x"
    assert imported(source) == {"jlogd", "cli", "wire", "daemon"}
    assert imported("import json\nfrom jlogd.journal.batch import Batch") == {"journal"}
    assert allowed("journal") == {"access", "errors", "memory", "version", "plain", "journal"}
    assert "wire" not in allowed("sources") and "writer" not in allowed("subscriber") and "cli" not in allowed("daemon")


def known_modules(source: str, modules: set[str]) -> set[str]:
    """Which of `modules` a module imports, if only for its types."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & modules


def test_no_modules_know_each_other():
    """Types count: where two modules need each other's, a third one is missing, or they are one."""
    sources = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path.read_text() for path in modules()}
    known = {name: known_modules(source, set(sources)) for name, source in sources.items()}
    assert {"jlogd.daemon.session", "jlogd.daemon.served"} <= known["jlogd.daemon.desk"]
    try:
        TopologicalSorter(known).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(reversed(error.args[1]))}")


def test_the_circle_check_sees_every_form():
    source = "import a\nfrom a.b import X\nfrom a import c\nif TYPE_CHECKING:\n    from a.d import Y\nimport other"
    assert known_modules(source, {"a", "a.b", "a.c", "a.d", "a.e"}) == {"a", "a.b", "a.c", "a.d"}


# Which of jlogd's parts another part of the house may use: `cidr` reads logs as every subscriber does, `vip` writes to
# one as every program does. Both are configured in the same words, and their commands end and print as those of jlogd.
STANDING_ALONE: dict[str, set[str]] = {
    "vip": {"access", "errors", "jlogd", "version"},
    "cluster": {"access", "errors"},
    "cidr": {"subscriber", "jlogd", "log", "errors", "memory", "version"},
}
_CONFIGURATION = {"jlogd.daemon.units", "jlogd.daemon.toml_structs", "jlogd.daemon.toml_lines"}
_DAEMON = {"jlogd.daemon.addresses", "jlogd.daemon.http", "jlogd.daemon.notify"}
SHARED_MODULES = {"cidr": _CONFIGURATION, "vip": _CONFIGURATION | _DAEMON}


def test_other_parts_of_the_house_stand_alone():
    """`vip` and `cidr` may use jlogd only where the design says so."""
    for part, may in STANDING_ALONE.items():
        for path in (PACKAGE.parent / part).glob("**/*.py"):
            source = path.read_text()
            for module in SHARED_MODULES.get(part, set()):
                source = source.replace(f"from {module} import", "from jlogd.errors import")
            allowed_here = may | ({"cli"} if path.parent == PACKAGE.parent / part / "cli" else set())
            assert imported(source) <= allowed_here, path
