"""Key files: made so that nobody else reads them, refused when somebody could; and which keys a client uses where."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from cli_support import done, failed, jlogd
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from jlogd.errors import BadKey, JlogError, UsageError
from jlogd.wire import keys
from jlogd.wire.credentials import Keys
from jlogd.wire.keys import check_public_key, make_pair, read_pair, read_public, write_pair

BEYOND = "tcp://192.0.2.1:5140"


@pytest.fixture(autouse=True)
def own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JLOGD_KEY", "JLOGD_SERVER_KEY", "JLOGD_INSECURE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def loose_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def pair_in(directory: Path, name: str = "web3") -> Path:
    return write_pair(make_pair(name), directory)[0]


@pytest.mark.usefixtures("loose_umask")
def test_a_secret_key_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    secret, public = write_pair(make_pair("web3"), tmp_path)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) == 0o644
    pair = read_pair(secret)
    assert pair.name == "web3" and read_public(public) == read_public(secret) == (pair.public,)
    assert pair.secret not in public.read_text() and pair.secret not in repr(pair)


def test_the_file_has_its_mode_from_its_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    real = os.open

    def note(path: str, flags: int, mode: int = 0o777, **options: int) -> int:
        modes.append(mode)
        return real(path, flags, mode, **options)

    monkeypatch.setattr(keys.os, "open", note)
    write_pair(make_pair("web3"), tmp_path)
    assert modes and set(modes) == {0o600}


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o666, 0o602, 0o610])
def test_a_looser_file_is_refused(tmp_path: Path, mode: int) -> None:
    secret = pair_in(tmp_path)
    secret.chmod(mode)
    with pytest.raises(BadKey, match=f"mode {mode:04o}.*chmod 600"):
        read_pair(secret)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_stricter_file_is_as_good(tmp_path: Path, mode: int) -> None:
    secret = pair_in(tmp_path)
    secret.chmod(mode)
    assert read_pair(secret).name == "web3"


def test_a_file_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = pair_in(tmp_path)
    own = os.geteuid()
    monkeypatch.setattr(keys.os, "geteuid", lambda: own + 1)
    with pytest.raises(BadKey, match=f"of uid {own}, this process is uid {own + 1}"):
        read_pair(secret)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    secret = pair_in(tmp_path)
    before = secret.read_bytes()
    with pytest.raises(UsageError, match="never written over"):
        pair_in(tmp_path)
    (tmp_path / "other.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="never written over"):
        pair_in(tmp_path, "other")
    assert secret.read_bytes() == before and not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "a b", ".hidden", "x" * 65, "a\n"])
def test_a_name_cannot_leave_the_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        pair_in(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no secret_key"),
        (b"\xff\xfe", "not a key file"),
        (b"x" * 20000, "too long"),
        (b'secret_key = "short"', "found 5 characters"),
        (b'secret_key = "' + b"#" * 40 + b'"', "was changed on its way; copy it again"),
        (b'secret_key = "' + b"\xc3\xa9" * 40 + b'"', "was changed on its way; copy it again"),
        (b"secret_key = 5", "no secret_key"),
        (b'public_key = "' + b"0" * 40 + b'"', "not the one to hand out"),
        (b'secret_key = "' + b"0" * 40 + b'"\npublic_key = "' + b"0" * 40 + b'"', "not a pair"),
        (b"[" * 9000, "not a key file"),
    ],
)
def test_what_is_no_key_is_said_to_be_none(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(BadKey, match=words):
        read_pair(path)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "missing"):
        with pytest.raises(BadKey):
            read_pair(path)


@given(st.binary(min_size=32, max_size=32))
def test_every_key_is_a_key(raw: bytes) -> None:
    assert check_public_key(z85.encode(raw).decode())


@given(st.text(max_size=60) | st.text(alphabet=keys._Z85, min_size=40, max_size=40))
def test_what_zeromq_would_not_take_is_refused(text: str) -> None:
    """ZeroMQ stops the process, or the socket, on some texts that are no keys: none of them comes that far."""
    try:
        check_public_key(text)
    except BadKey:
        return
    assert len(z85.decode(text)) == 32
    zmq.curve_public(text.encode())


# Which keys a client uses


def test_the_commands_make_and_show_keys(tmp_path: Path) -> None:
    ended = done(jlogd("keys", "new", "web3", "--dir", tmp_path / "new"))
    pair = read_pair(tmp_path / "new" / "web3.key")
    assert pair.public in ended.out and pair.secret not in ended.out
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    shown = done(jlogd("keys", "show", tmp_path / "new" / "web3.key", tmp_path / "new" / "web3.pub", "--json"))
    assert [found["public_key"] for found in shown.objects] == [pair.public, pair.public]
    assert pair.secret not in shown.out
    failed(jlogd("keys", "new", "web3", "--dir", tmp_path / "new"), 2, "never written over")
    (tmp_path / "new" / "web3.key").chmod(0o644)
    failed(jlogd("keys", "show", tmp_path / "new" / "web3.key"), 2, "mode 0644")


def test_unix_sockets_and_the_loopback_go_without(tmp_path: Path) -> None:
    assert Keys().resolve("tcp://127.0.0.1:1") is None
    assert Keys("missing.key", "nonsense").resolve("ipc:///run/x") is None


def test_beyond_this_host_both_keys_are_needed(tmp_path: Path) -> None:
    secret, public = write_pair(make_pair("web3"), tmp_path)
    server = make_pair().public
    for given_keys, words in (
        (Keys(), "there are no keys"),
        (Keys(secret), "not that of the daemon"),
        (Keys(None, server), "no key of this client"),
    ):
        with pytest.raises(UsageError, match=words):
            given_keys.resolve(BEYOND)
    found = Keys(secret, server).resolve(BEYOND)
    assert found is not None and found.server_keys == (server,)
    found = Keys(str(secret), [server, str(public)]).resolve(BEYOND)
    assert found is not None and found.server_keys == (server, read_pair(secret).public)


def test_insecure_must_be_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert Keys(insecure=True).resolve(BEYOND) is None
    monkeypatch.setenv("JLOGD_INSECURE", "1")
    assert Keys().resolve(BEYOND) is None
    with pytest.raises(JlogError):  # whoever gives keys means them
        Keys(key=tmp_path / "missing.key", insecure=True).resolve(BEYOND)


def test_what_is_given_first_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "config" / "jlogd"
    config.mkdir(parents=True)
    own, server = make_pair("client"), make_pair("server")
    write_pair(own, config)
    write_pair(server, config)

    def used(address: str = BEYOND, **options: object) -> tuple[str, tuple[str, ...]]:
        found = Keys(**options).resolve(address)  # type: ignore[arg-type]
        assert found is not None
        return found.pair.public, found.server_keys

    assert used() == (own.public, (server.public,))
    assert Keys().resolve("tcp://127.0.0.1:1") is None  # the directory is for other hosts
    other = make_pair().public
    monkeypatch.setenv("JLOGD_SERVER_KEY", f"{other} {server.public}")
    assert used() == (own.public, (other, server.public))
    monkeypatch.setenv("JLOGD_KEY", str(config / "server.key"))
    assert used("tcp://127.0.0.1:1")[0] == server.public
    assert used(key=config / "client.key", server_key=other) == (own.public, (other,))


@pytest.mark.parametrize("server_key", ["nonsense", "#" * 40, "missing.pub", "./missing", ["0" * 40, "x"], "0" * 41])
def test_a_wrong_server_key_is_named(tmp_path: Path, server_key: str | list[str]) -> None:
    with pytest.raises(BadKey):
        Keys(pair_in(tmp_path), server_key).resolve(BEYOND)
