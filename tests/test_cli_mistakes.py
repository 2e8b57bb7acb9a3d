"""Every mistake ends with one line that says what to do, the right exit code, and no traceback."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from cli_support import ROOT, SECONDS_MAX, done, failed, jlogctl, jlogd, process

import jlogd as library
from jlogd import errors
from jlogd.access import user
from jlogd.cli.errors import explain
from jlogd.cli.output import preload
from jlogd.journal.disk import PosixDisk
from jlogd.journal.journal import Journal

# One way to use each command that takes a log, to be given one that is none.
USES = [
    ("append",),
    ("tail", "--no-follow"),
    ("stat",),
    ("stat", "--json"),
    ("check",),
    ("subscriber", "list"),
    ("subscriber", "add", "x"),
    ("subscriber", "remove", "x"),
    ("subscriber", "set", "x", "--to", "end"),
    ("subscriber", "clone", "x", "--from", "y"),
    ("subscriber", "caps", "x", "--default"),
]


def use(words: tuple[str, ...], target: object) -> tuple[object, ...]:
    """The words with the log in its place."""
    at = 2 if words[0] == "subscriber" else 1
    return (*words[:at], target, *words[at:])


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "spool" / "mainlog"
    done(jlogctl("create", path, "--subscriber", "master"))
    return path


@contextmanager
def as_somebody_else() -> Iterator[None]:
    """As root, act as a user that owns nothing; root may do everything."""
    if os.geteuid() != 0:
        yield
        return
    preload()
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("words", USES)
def test_a_log_that_is_not_there(tmp_path: Path, words: tuple[str, ...]) -> None:
    missing = tmp_path / "nowhere" / "mainlog"
    failed(jlogctl(*use(words, missing)), 1, f"there is no log at {missing}", f"jlogctl create {missing}")
    assert not missing.parent.exists()


@pytest.mark.parametrize("words", USES)
def test_a_name_that_is_nearly_right(log: Path, words: tuple[str, ...]) -> None:
    failed(jlogctl(*use(words, log.with_name("mainlgo"))), 1, f"did you mean {log}?")
    failed(jlogctl(*use(words, log.with_name("MAINLOG"))), 1, f"did you mean {log}?")


@pytest.mark.parametrize("words", USES)
def test_a_spool_in_place_of_a_log(log: Path, words: tuple[str, ...]) -> None:
    failed(jlogctl(*use(words, log.parent)), 1, "is a spool, not a log", str(log))


@pytest.mark.parametrize("words", USES)
def test_a_file_in_place_of_a_log(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("a line\n")
    failed(jlogctl(*use(words, tmp_path / "file")), 1, "is a file, not a log")
    failed(jlogctl(*use(words, tmp_path / "file" / "log")), 1, "there is no log")


@pytest.mark.parametrize("words", [*USES, ("create",), ("list",)])
@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("http://127.0.0.1/mainlog", "tcp:// or ipc://"),
        ("tcp:127.0.0.1:5140/mainlog", "write tcp://127.0.0.1:5140/mainlog"),
        ("bad\0name", "NUL"),
    ],
)
def test_what_names_no_log(words: tuple[str, ...], target: str, hint: str) -> None:
    failed(jlogctl(*use(words, target)), 2, hint)


@pytest.mark.parametrize("words", [use for use in USES if use[0] != "check"])
@pytest.mark.parametrize(
    "target",
    ["tcp://127.0.0.1/mainlog", "tcp://192.0.2.1:5140/mainlog", "tcp://:5140/x", "ipc://", "tcp://127.0.0.1:5140/"],
)
def test_addresses_that_are_none(words: tuple[str, ...], target: str) -> None:
    ended = jlogctl(*use(words, target))
    assert (ended.code, ended.err.count("error: ")) == (2, 1), ended.err


def test_a_name_too_long_for_the_file_system(tmp_path: Path) -> None:
    for words in USES:
        failed(jlogctl(*use(words, tmp_path / ("x" * 300))), 3, "file name too long; use a shorter name")
    failed(jlogctl("create", tmp_path / ("x" * 300)), 3, "use a shorter name")


def test_the_directory_one_is_in(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(log)
    assert done(jlogctl("stat", ".", "--json")).objects[0]["name"] == "mainlog"
    monkeypatch.chdir(log / "subscribers")
    done(jlogctl("append", "..", stdin=b"x\n"))
    done(jlogctl("check", ".."))


@pytest.mark.parametrize("words", [*USES, ("list",)])
def test_no_permission(log: Path, words: tuple[str, ...]) -> None:
    log.parent.chmod(0)
    try:
        with as_somebody_else():
            ended = jlogctl(*use(words, log.parent if words == ("list",) else log))
    finally:
        log.parent.chmod(0o750)
    failed(ended, 3, str(log.parent), f"denied to user {user(os.geteuid() or 65534)}", " belongs to ")


def test_a_denied_path_is_told_with_its_owner(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    denied = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "none" / ".lock"))
    _, told = explain(denied)
    assert f"; {tmp_path} belongs to {user(os.getuid())} (mode 0555); run as a user that may" in told


def test_looking_needs_only_the_permission_to_read(log: Path) -> None:
    done(jlogctl("append", log, stdin=b"a line\n"))
    done(jlogctl("tail", log, "--subscriber", "master", "--no-follow"))
    for path in (log, *log.rglob("*"), *log.parents[: len(log.parents) - 2]):
        path.chmod(path.stat().st_mode & ~0o222 | (0o055 if path.is_dir() else 0o044))
    with as_somebody_else():
        assert done(jlogctl("tail", log, "--no-follow")).raw == b"a line\n"
        assert done(jlogctl("stat", log, "--json")).objects[0]["next"] == 2
        done(jlogctl("subscriber", "list", log))
        done(jlogctl("list", log.parent))
        done(jlogctl("check", log))
        failed(jlogctl("append", log, stdin=b"x\n"), 3, "permission denied")


def test_a_log_of_another_host_can_be_looked_at_only(tmp_path: Path) -> None:
    class Elsewhere(PosixDisk):
        def host(self) -> str:
            return "another-host"

    log = tmp_path / "mainlog"
    Journal.create(log, subscribers=["master"], disk=Elsewhere())
    done(jlogctl("stat", log))
    done(jlogctl("tail", log, "--no-follow"))
    for words in (("append",), ("tail", "--subscriber", "master"), ("subscriber", "add", "x")):
        failed(jlogctl(*use(words, log), stdin=b"x\n"), 3, "another-host")


def test_a_log_that_is_broken(log: Path) -> None:
    meta = log / "log.json"
    meta.write_text(meta.read_text()[:20])
    for words in USES:
        if words != ("check",):
            failed(jlogctl(*use(words, log)), 3, "log.json cannot be read", f"jlogctl repair {log} --dry-run")
    (finding,) = jlogctl("check", log, "--json").objects
    assert (finding["kind"], finding["path"], finding["harmless"]) == ("state", "log.json", False)
    assert f"jlogctl repair {log} --dry-run" in finding["message"]
    assert jlogctl("check", log).code == 1


def test_a_log_without_its_owner_is_sent_to_repair(log: Path) -> None:
    (log / "owner").unlink()
    for words in (("stat",), ("append",)):
        failed(jlogctl(*use(words, log)), 3, "the owner file is gone", f"jlogctl repair {log} --dry-run")
    done(jlogctl("repair", log))
    (log / "owner").write_bytes(b"x" * 4608)
    for words in (("stat",), ("append",)):
        failed(jlogctl(*use(words, log)), 3, "neither slot of the owner", f"jlogctl repair {log} --dry-run")


def test_a_disk_that_is_full(log: Path, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"y" * 99 + b"\n" + b"x" * 4_000_000)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    with process("append", log, tmp_path / "input", preexec_fn=limit) as started:
        _, told = started.communicate(timeout=SECONDS_MAX)
    assert started.returncode == 3
    assert b"error: " in told and b"Traceback" not in told and b"1 record durable, then:" in told
    with library.open(log) as opened, opened.subscriber() as feed:
        assert [record for batch in feed for record in batch] == [b"y" * 99]


def test_stdout_that_cannot_take_it(log: Path) -> None:
    done(jlogctl("append", log, stdin=b"a line\n"))
    with open("/dev/full", "wb") as full:
        for words in (("stat", log), ("stat", log, "--json")):
            with process(*words, stdout=full) as started:
                _, told = started.communicate(timeout=SECONDS_MAX)
            assert started.returncode == 3, words
            assert told.startswith(b"error: no space left on device"), told


@pytest.mark.parametrize(("close", "code"), [(">&-", 2), ("<&-", 2), ("2>&-", 0)])
def test_closed_streams(log: Path, close: str, code: int) -> None:
    done(jlogctl("append", log, stdin=b"a line\n"))
    words = "append" if close == "<&-" else "tail --subscriber master --no-follow"
    command = f"{sys.executable} -m jlogd.cli.jlogctl {words.split()[0]} {log} {' '.join(words.split()[1:])} {close}"
    ended = subprocess.run(
        ["bash", "-c", command], capture_output=True, timeout=SECONDS_MAX, env={"PYTHONPATH": str(ROOT)}
    )
    assert ended.returncode == code, ended
    assert b"Traceback" not in ended.stderr
    left = done(jlogctl("subscriber", "list", log, "--json")).objects[0]["lag_records"]
    assert left == (0 if close == "2>&-" else 1)


def test_a_path_that_is_no_text(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/\xff\xfe"
    os.mkdir(odd)
    with process("list", os.fsdecode(odd)) as started:
        out, told = started.communicate(timeout=SECONDS_MAX)
    assert (started.returncode, told) == (1, b"")
    assert b"\xff\xfe" in out
    with process("stat", os.fsdecode(odd)) as started:
        out, told = started.communicate(timeout=SECONDS_MAX)
    assert started.returncode == 1 and b"there is no log" in told


def test_a_traceback_only_when_asked_for(tmp_path: Path) -> None:
    for value, wanted in (("1", True), ("0", False)):
        with process("stat", tmp_path / "none", environment={"JLOGD_DEBUG": value}) as started:
            _, told = started.communicate(timeout=SECONDS_MAX)
        assert (b"Traceback" in told) == wanted
        assert started.returncode == 1


def test_a_mistake_of_our_own_is_told_as_one(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_target: object) -> None:
        raise RuntimeError("never thought of")

    monkeypatch.setattr(library, "open", broken)
    failed(jlogctl("stat", log), 3, "RuntimeError: never thought of", "JLOGD_DEBUG=1")


def all_errors(root: type[errors.JlogError]) -> Iterator[type[errors.JlogError]]:
    """Those of jlogd; other parts of the house look after their own."""
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from all_errors(child)


@pytest.mark.parametrize("kind", sorted(all_errors(errors.JlogError), key=lambda kind: kind.__name__))
def test_every_error_has_an_exit_code_and_keeps_its_words(kind: type[errors.JlogError]) -> None:
    code, message = explain(kind("what, where, what next"))
    assert code == kind.exit_code and code in (1, 2, 3)
    assert message == "what, where, what next"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 3, "/x: permission denied to "),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", b"/x"), 3, "/x: no such file or directory"),
        (OSError(errno.ENOSPC, "No space left on device"), 3, "no space left on device; make room"),
        (OSError(errno.EXDEV, "Invalid cross-device link", "/a", None, "/b"), 3, "/a -> /b: invalid"),
        (OSError("odd"), 3, "odd"),
        (TimeoutError(), 3, "timeouterror"),
        (click.Abort(), 3, "interrupted"),
        (KeyboardInterrupt(), 3, "interrupted"),
        (click.ClickException("so"), 3, "so"),
        (click.BadParameter("no"), 2, "no"),
        (MemoryError(), 3, "MemoryError"),
    ],
)
def test_what_is_said_of_other_failures(error: BaseException, code: int, message: str) -> None:
    found, said = explain(error)
    assert found == code and said.startswith((message, f"Invalid value: {message}"))


def test_ctrl_c_before_anything_happened(log: Path) -> None:
    with process("append", log) as started:
        assert started.stdin is not None
        started.stdin.write(b"x\n")
        started.stdin.flush()
        started.send_signal(signal.SIGINT)
        _, told = started.communicate(timeout=SECONDS_MAX)
    assert started.returncode in (-2, 3) and (b"Traceback" not in told or b"KeyboardInterrupt" in told)


# jlogd


def test_check_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failed(jlogd("check-config"), 2, "jlogd.toml", "jlogd check-config FILE")
    failed(jlogd("check-config", "none.toml"), 2, "none.toml")
    good = '[node]\nname = "east1"\n[log.mainlog]\nsubscribers = ["master"]\n[[source.stdin]]\nlog = "mainlog"\n'
    (tmp_path / "jlogd.toml").write_text(good)
    assert done(jlogd("check-config")).out == "jlogd.toml is right: node east1, 1 log, 1 source\n"
    (tmp_path / "bad.toml").write_text(good.replace("subscribers", "subscriber").replace('"mainlog"\n', '"maillog"\n'))
    ended = failed(jlogd("check-config", "bad.toml"), 2, "bad.toml:4", "subscriber")
    assert "Traceback" not in ended.err
    failed(jlogd("check-config", tmp_path), 2, str(tmp_path))


def test_run_with_a_configuration_that_is_wrong(tmp_path: Path) -> None:
    failed(jlogd("run", "--config", tmp_path / "none.toml"), 2, "none.toml")
    (tmp_path / "bad.toml").write_text("[node\n")
    failed(jlogd("run", "--config", tmp_path / "bad.toml"), 2, "bad.toml:1")


def test_create_says_what_is_in_the_way(log: Path) -> None:
    ended = failed(jlogctl("create", log), 3, f"there is already a log mainlog: {log}; use it as it is")
    assert "repair" not in ended.err
    (log.parent / "file").touch()
    failed(jlogctl("create", log.parent / "file"), 3, "there is a file at")
    for below in ("log", "deep/log"):
        failed(jlogctl("create", log.parent / "file" / below), 2, f"{log.parent / 'file'} is a file")
    (log.parent / "other" / "thing").mkdir(parents=True)
    failed(jlogctl("create", log.parent / "other"), 3, "holds something else than a log")
    (log.parent / "link").symlink_to(log.parent / "other" / "thing")
    failed(jlogctl("create", log.parent / "link"), 3, "cannot be replaced", f"make one in it: {log.parent / 'link'}")


def test_an_empty_directory_gives_way_to_a_log(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = log.parent / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    failed(jlogctl("create", "."), 2, "is the directory you are in")
    monkeypatch.chdir(log.parent)
    failed(jlogctl("stat", "empty"), 1, "make one: jlogctl create empty")
    done(jlogctl("create", "empty"))
    done(jlogctl("check", "empty"))


def test_a_log_whose_log_json_is_gone_is_sent_to_repair(log: Path) -> None:
    (log / "log.json").rename(log.parent / "elsewhere")
    for words in (("stat", log), ("check", log), ("create", log), ("append", log), ("list", log.parent)):
        ended = jlogctl(*words, stdin=b"x\n")
        assert ended.code in (1, 3) and f"jlogctl repair {log} --dry-run" in ended.err, ended.err
    for words in (("repair", log.parent), ("stat", log.parent)):
        failed(jlogctl(*words), 1, f"is a spool, not a log; name one of its logs: {log}")
    (healthy := log.with_name("mainlog2")).mkdir()
    done(jlogctl("create", healthy))
    ended = jlogctl("list", log.parent)
    assert ended.code == 1 and "mainlog2" in ended.out and f"jlogctl repair {log} --dry-run" in ended.err
    failed(jlogctl("stat", log), 1, f"jlogctl repair {log} --dry-run")
