"""The documentation is run, and what it points to is there.

A fenced block is, by its language:

    sh        run by bash, in the page's own empty directory, in the order of the page; it must succeed. Lines of
              `make` are not run but must name targets; `make run` starts the daemon as that would
    console   what follows `$ ` is run; the lines after it are what it must print. `...` stands for any text, alone in a
              line for any lines; runs of spaces count as one
    python    run as a program in the same directory
    toml      must be a configuration, of jlogd or of cidr
    sql, text, json, yaml, or nothing    only shown

A comment right above a block changes that:

    <!-- skip: REASON -->     not run
    <!-- file: NAME -->       also written to NAME in the page's directory
    <!-- daemon -->           its command goes on in the background until the page ends
    <!-- test -->             python: run by pytest, with the fixtures of these tests

The ports of the documentation are replaced by free ones. docs/commands.md is made from the help texts, whose examples
tests/test_cli_help.py looks at.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from daemon_support import SECONDS_MAX, until
from ports import free_ports

from cidr.config import parse as parse_cidr
from jlogd.daemon.config_file import parse
from jlogd.daemon.defaults import DEFAULT_TOML
from jlogd.daemon.manager_metrics import manager_metrics
from jlogd.daemon.metrics import all_metrics
from vip.config import parse as parse_vip

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = {"commands.md"}
PROGRAMS = {
    "jlogd": "jlogd.cli.jlogd",
    "jlogctl": "jlogd.cli.jlogctl",
    "cidr": "cidr.cli.main",
    "as_logger": "cidr.cli.as_logger",
}
LANGUAGES = {"sh", "console", "python", "toml", "sql", "text", "json", "yaml", ""}
NOTES = {"skip", "file", "daemon", "test"}
PORTS = ("5140", "5180", "5514", "9090")
# A block is several commands, each of which loads its libraries, and the machine may be slow.
BLOCK_SECONDS_MAX = 4 * SECONDS_MAX
# Where a program says that it is ready.
READY = {"jlogd": ("5180", "/readyz"), "cidr": ("9090", "/healthz")}
# Programs of other packages: where they are missing the page is skipped, but not in continuous integration.
FOREIGN = ("logger", "curl")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the comments right above it, and the line it begins in."""

    language: str
    text: str
    notes: dict[str, str]
    line: int


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    language: str | None = None
    notes: dict[str, str] = {}
    text: list[str] = []
    start = 0
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if language is not None:
            if line.strip() == "```":
                yield Block(language, "\n".join(text) + "\n", notes, start)
                language, notes, text = None, {}, []
            else:
                text.append(line)
        elif line.startswith("```"):
            language, start = line[3:].strip(), number
        elif found := re.fullmatch(r"<!-- (\w+)(?:: (.+))? -->", line):
            notes[found[1]] = found[2] or ""
        elif line.strip():
            notes = {}
    assert language is None, f"{name_of(page)}:{start}: the block has no end"


def is_run(page: Path) -> bool:
    return page.name not in NOT_RUN and any(block.language in ("sh", "console", "python") for block in blocks(page))


# ---- running a page --------------------------------------------------------------------------------------------------


class Stage:
    """Where a page is run: an empty directory, the commands on PATH, ports of its own."""

    def __init__(self, page: Path, directory: Path) -> None:
        self.page = page
        self.directory = directory / "page"
        self.tools = directory / "tools"
        self.ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
        self._daemons = ExitStack()
        (self.directory / ".venv" / "bin").mkdir(parents=True)
        (self.directory / ".venv" / "bin" / "activate").touch()
        (self.tools / "bin").mkdir(parents=True)
        for program, module in PROGRAMS.items():
            path = self.tools / "bin" / program
            path.write_text(f"#!{sys.executable}\nfrom {module} import main\nmain()\n")
            path.chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{self.tools / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "COLUMNS": "160",
            "TERM": "dumb",
        }

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._daemons.close()

    def play(self, block: Block) -> None:
        text = re.sub(r"\b\d{4}\b", lambda found: self.ports.get(found[0], found[0]), block.text)
        if "file" in block.notes:
            (self.directory / block.notes["file"]).write_text(text)
        if "daemon" in block.notes:
            self._daemons.enter_context(self._daemon(shlex.split(text)))
        elif block.language == "sh":
            self._shell(text, block)
        elif block.language == "console":
            self._console(text, block)
        elif block.language == "python" and "test" in block.notes:
            path = self.tools / "test_page.py"
            path.write_text(text)
            self._run([sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider", path], block)
        elif block.language == "python":
            self._run([sys.executable, "-c", text], block)

    def _run(self, command: list[object], block: Block) -> str:
        ended = subprocess.run(
            list(map(str, command)),
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BLOCK_SECONDS_MAX,
        )
        where = f"{name_of(self.page)}:{block.line}"
        assert ended.returncode == 0, f"{where}: exit code {ended.returncode}\n{ended.stdout}{ended.stderr}"
        assert "Traceback" not in ended.stderr, f"{where}:\n{ended.stderr}"
        return ended.stdout

    def _shell(self, text: str, block: Block) -> None:
        lines = text.splitlines(keepends=True)
        for line in lines:
            if line.startswith("make"):
                self._make(line.split()[1:], block)
        rest = "".join(line for line in lines if not line.startswith("make"))
        if rest.strip():
            self._run(["bash", "-e", "-o", "pipefail", "-c", rest], block)

    def _make(self, words: list[str], block: Block) -> None:
        for word in words:
            assert word in make_targets(), f"{name_of(self.page)}:{block.line}: there is no target {word}"
        if words == ["run"]:
            path = self.tools / "built-in.toml"
            path.write_text(re.sub(r"\d{4}", lambda found: self.ports[found[0]], DEFAULT_TOML))
            self._daemons.enter_context(self._daemon(["jlogd", "run", "--config", str(path)]))

    def _console(self, text: str, block: Block) -> None:
        for part in re.split(r"^(?=\$ )", text, flags=re.MULTILINE):
            if not part.strip():
                continue
            command, _, expected = part.partition("\n")
            assert command.startswith("$ "), f"{name_of(self.page)}:{block.line}: output without a command"
            printed = self._run(["bash", "-c", command[2:]], block)
            assert printed_as_shown(expected, printed), (
                f"{name_of(self.page)}:{block.line}: {command}\nshows\n{expected}\nand prints\n{printed}"
            )

    @contextmanager
    def _daemon(self, command: list[str]) -> Iterator[None]:
        said = self.tools / "daemon.log"
        with said.open("wb") as output:
            process = subprocess.Popen(
                command,
                executable=self.tools / "bin" / command[0],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            until(lambda: process.poll() is not None or self._is_ready(command[0]), "the daemon is ready")
            assert process.poll() is None, said.read_text()
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS_MAX) == 0, said.read_text()
            assert "Traceback" not in said.read_text(), said.read_text()
        finally:
            process.kill()
            process.wait()

    def _is_ready(self, program: str) -> bool:
        port, path = READY[program]
        try:
            url = f"http://127.0.0.1:{self.ports[port]}{path}"
            with urllib.request.urlopen(url, timeout=SECONDS_MAX) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def printed_as_shown(shown: str, printed: str) -> bool:
    """Whether a command printed what the page shows."""
    pattern = ""
    for line in filter(str.strip, shown.splitlines()):
        words = " ".join(line.split())
        pattern += r"(?:.*\n)*?" if words == "..." else re.escape(words).replace(r"\.\.\.", ".*") + r"\n"
    text = "".join(" ".join(line.split()) + "\n" for line in printed.splitlines() if line.strip())
    return re.fullmatch(pattern, text) is not None


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("page", [page for page in PAGES if is_run(page)], ids=name_of)
def test_a_page_works_from_its_first_line_to_its_last(page: Path, tmp_path: Path) -> None:
    found = [block for block in blocks(page) if "skip" not in block.notes]
    wanted = [word for word in FOREIGN if any(re.search(rf"\b{word} -", b.text) for b in found if b.language != "text")]
    missing = [word for word in wanted if shutil.which(word) is None]
    if missing and os.environ.get("CI") != "true":
        pytest.skip(f"{name_of(page)} needs {', '.join(missing)}")
    with Stage(page, tmp_path) as stage:
        for block in found:
            stage.play(block)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a  b\n", "a b\n", True),
        ("a b\n", "a bc\n", False),
        ("a ... d\n", "a b c d\n", True),
        ("a\n...\nz\n", "a\nb\nc\nz\n", True),
        ("a\n...\nz\n", "a\nz\n", True),
        ("a\n", "a\nb\n", False),
        ("1.5 s\n", "105 s\n", False),
    ],
)
def test_what_is_shown_is_compared(shown: str, printed: str, same: bool) -> None:
    assert printed_as_shown(shown, printed) is same


# ---- what a page says about itself and others ------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_follow_the_convention(page: Path) -> None:
    for block in blocks(page):
        where = f"{name_of(page)}:{block.line}"
        assert block.language in LANGUAGES, f"{where}: {block.language} is run by nobody"
        assert set(block.notes) <= NOTES, f"{where}: {block.notes}"
        assert block.notes.get("skip") != "", f"{where}: a block that is skipped says why"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_configurations_are_right(page: Path) -> None:
    for block in blocks(page):
        if block.language == "toml":
            where = f"{name_of(page)}:{block.line}"
            if re.search(r"^\[+(as_logger|cidr)\b", block.text, re.MULTILINE):
                parse_cidr(block.text, where)
            elif re.search(r"^\[+vip\b", block.text, re.MULTILINE):
                parse_vip(block.text, where)
            else:
                parse(block.text, where)


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links, as GitHub does it."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)}: {target} is not there"
        assert not anchor or anchor in anchors(file), f"{name_of(page)}: {target} has no such heading"


def test_every_page_is_in_the_table_of_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    assert [name_of(page) for page in PAGES if f"({name_of(page)})" not in text] == ["README.md"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_tests_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    for name in set(re.findall(r"\btests/\w+\.py", text)):
        assert (ROOT / name).is_file(), f"{name_of(page)}: {name}"
    there = "\n".join(path.read_text() for path in (ROOT / "tests").glob("*.py"))
    for name in set(re.findall(r"`(test_\w+)`", text)):
        assert f"def {name}(" in there, f"{name_of(page)}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_metrics_that_are_named_exist(page: Path) -> None:
    known = {metric.exposed for metric in (*all_metrics(), *manager_metrics())}
    for name in set(re.findall(r"\bjlogd_[a-z_]+[a-z]\b", page.read_text())):
        # A name may be cut, where it is searched for.
        assert any(one.startswith(name.removesuffix("_bucket")) for one in known), f"{name_of(page)}: {name}"
