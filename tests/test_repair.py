"""`repair`: on the model disk, where every file can be damaged and every I/O call can be the last."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_disk import Crash, Fault, ModelDisk, ModelProcess

from jlogd.errors import FormatError, JlogError, LogInUse, LogNotFound, OwnedElsewhere
from jlogd.journal.batch import Batch, encode
from jlogd.journal.check import check
from jlogd.journal.cursor import Cursor
from jlogd.journal.head import HEAD, OWNER, decode_owner
from jlogd.journal.journal import Journal
from jlogd.journal.layout import Layout, encode_meta, new_meta
from jlogd.journal.repair import QUARANTINE, REPORT, repair
from jlogd.journal.segment import SegmentHeader, SegmentId, host_tag
from jlogd.journal.slots import SlotFile, encode_slot
from jlogd.journal.subscribers import State, Subscribers
from jlogd.journal.types import Position, Receipt, Settings
from jlogd.journal.view import View

LOG = Path("/spool/mainlog")
LAYOUT = Layout(LOG)
PER_BATCH = 10


def make(epochs: int = 2, batches: int = 8, clean: bool = True) -> tuple[ModelDisk, dict[int, bytes]]:
    """A log of several epochs and segments, and what it holds; `clean` false: its last writer was killed."""
    disk = ModelDisk()
    process = disk.process()
    Journal.create(LOG, Settings(segment_bytes=4096), ["late", "done", "half"], process)
    held: dict[int, bytes] = {}
    for epoch in range(epochs):
        journal = Journal.open(LOG, process)
        for number in range(batches):
            records = [b"%d/%d/%d" % (epoch, number, at) + b"." * 60 for at in range(PER_BATCH)]
            (receipt,) = journal.commit([encode(records)])
            assert isinstance(receipt, Receipt)
            held.update(zip(range(receipt.first, receipt.next), records, strict=True))
        move(journal, "half", len(held) // 2)
        move(journal, "done", len(held))
        if epoch < epochs - 1 or not clean:
            disk.kill(process)
            process = disk.crash(epoch, "everything", "prefix") if epoch < epochs - 1 else disk.process()
        else:
            journal.close()
            disk.kill(process)
    return disk, held


def move(journal: Journal, name: str, records: int) -> None:
    hold = journal.hold(name)
    while hold.read(1 << 20):
        pass
    hold.checkpoint(records + 1)
    hold.release()


def readable(process: ModelProcess) -> dict[int, bytes]:
    """Every record that a reader without a name gets."""
    found: dict[int, bytes] = {}
    try:
        cursor = Cursor(View(LOG, process), Position(1))
        while items := cursor.read(1 << 20):
            for item in items:
                if isinstance(item, Batch):
                    found.update(zip(range(item.first, item.next), item.records(), strict=True))
    except (JlogError, FileNotFoundError, UnicodeDecodeError):
        pass
    return found


def positions(process: ModelProcess) -> dict[str, int]:
    try:
        subscribers = Subscribers(View(LOG, process))
        return {name: state.position.next for name, state in subscribers.all().items()}
    except (JlogError, FileNotFoundError, UnicodeDecodeError):
        return {}


def states(process: ModelProcess) -> list[str]:
    return [f"{finding.path}: {finding.message}" for finding in check(LOG, process) if finding.kind == "state"]


def assert_sound(disk: ModelDisk, before: dict[int, bytes], held: dict[int, bytes]) -> dict[int, bytes]:
    """The log is in order, still holds what could be read before, and works."""
    process = disk.process()
    assert states(process) == []
    after = readable(process)
    assert before.items() <= after.items()
    assert after.items() <= held.items()
    # A segment that the end of the log was found in, and that held nothing, is found to be hidden only now.
    assert {step.action for step in repair(LOG, process).steps} <= {"moved"}
    assert repair(LOG, process).steps == []
    with Journal.open(LOG, process) as journal:
        (receipt,) = journal.commit([encode([b"afterwards"])])
        assert isinstance(receipt, Receipt)
        assert receipt.first > max(after, default=0)
    now = readable(process)  # the commit may have rolled, and pruned what no subscriber needs
    assert now == {at: record for at, record in {**after, receipt.first: b"afterwards"}.items() if at >= min(now)}
    return after


def steps(process: ModelProcess, **options: bool) -> dict[str, str]:
    return {step.path: step.action for step in repair(LOG, process, **options).steps}


# ---- one damage at a time ------------------------------------------------------------------------------------------


def damage(disk: ModelDisk, path: Path, at: int = 20, length: int = 4) -> None:
    data = bytearray(disk.files()[path])
    data[at : at + length] = bytes(byte ^ 0x5A for byte in data[at : at + length])
    disk.put(path, bytes(data))


def segments(disk: ModelDisk) -> list[Path]:
    return sorted(disk.files(".seg"))


def head_of(disk: ModelDisk) -> Path:
    return max(path for path in disk.files() if path.name.startswith("head-"))


def test_a_sound_log_is_left_alone() -> None:
    disk, held = make()
    before = disk.files()
    assert repair(LOG, disk.process()).steps == []
    after = disk.files()
    assert {path: data for path, data in after.items() if not path.name.endswith(".lock")} == {
        path: data for path, data in before.items() if not path.name.endswith(".lock")
    }
    assert not disk.process().exists(LOG / QUARANTINE)
    assert_sound(disk, held, held)


@pytest.mark.parametrize("slot", [0, 4096])
@pytest.mark.parametrize("name", ["owner", "floor", "head", "subscribers/half", "subscribers/late"])
def test_a_damaged_slot(name: str, slot: int) -> None:
    disk, held = make()
    path = head_of(disk) if name == "head" else LOG / name
    damage(disk, path, slot + 20)
    process = disk.process()
    before, stood = readable(process), positions(process)
    assert str(path.relative_to(LOG)) in steps(process)
    after = assert_sound(disk, before, held)
    assert after == held
    assert all(positions(disk.process())[at] <= stood[at] for at in stood)


@pytest.mark.parametrize("lose", [False, True])
@pytest.mark.parametrize("name", ["owner", "floor", "head", "log.json"])
def test_a_state_file_that_is_gone(name: str, lose: bool) -> None:
    disk, held = make()
    path = head_of(disk) if name == "head" else LOG / name
    if lose:
        disk.lose(path)
    else:
        disk.put(path, b"\xff" * len(disk.files()[path]))
    found = steps(disk.process())
    assert name in {"head" if "head" in one else one for one in found}
    assert assert_sound(disk, {}, held) == held
    kept = {path.name for path in disk.files() if QUARANTINE in path.parts}
    assert REPORT in kept and (lose or path.name in kept)


def test_log_json_gets_its_identity_from_the_segments_and_default_settings() -> None:
    disk, held = make()
    before = View(LOG, disk.process())
    disk.put(LAYOUT.meta, disk.files()[LAYOUT.meta].replace(b"4096", b"8192"))
    assert steps(disk.process()) == {"log.json": "rebuilt"}
    after = View(LOG, disk.process())
    assert (after.uuid, after.seed) == (before.uuid, before.seed)
    assert after.meta.settings == Settings()
    assert_sound(disk, held, held)


def test_log_json_of_another_log() -> None:
    disk, held = make()
    disk.put(LAYOUT.meta, encode_meta(new_meta(Settings())))
    assert steps(disk.process()) == {"log.json": "rebuilt"}
    assert assert_sound(disk, held, held) == held


def test_log_json_in_another_form_keeps_its_settings() -> None:
    disk, held = make()
    disk.put(LAYOUT.meta, disk.files()[LAYOUT.meta].replace(b"\n", b" "))
    assert steps(disk.process()) == {"log.json": "rewritten"}
    assert View(LOG, disk.process()).meta.settings.segment_bytes == 4096
    assert_sound(disk, held, held)


def test_a_log_of_a_newer_version_is_not_touched() -> None:
    disk, _ = make()
    meta = msgspec.structs.replace(View(LOG, disk.process()).meta, format=2)
    disk.put(LAYOUT.meta, encode_meta(meta))
    before = disk.files()
    with pytest.raises(FormatError, match="needs a newer jlogd"):
        repair(LOG, disk.process())
    assert disk.files() == before


def test_without_any_identity_nothing_is_touched() -> None:
    disk, _ = make()
    disk.lose(LAYOUT.meta)
    for path in segments(disk):
        damage(disk, path)
    before = disk.files()
    with pytest.raises(FormatError, match="not known which log this is; nothing was changed"):
        repair(LOG, disk.process())
    assert disk.files() == before


def test_a_subscriber_without_a_slot_starts_at_the_oldest_record() -> None:
    disk, held = make()
    disk.put(LAYOUT.subscriber("done"), bytes(4608))
    assert steps(disk.process()) == {"subscribers/done": "rebuilt"}
    assert positions(disk.process()) == {"done": 1, "half": len(held) // 2 + 1, "late": 1}
    assert_sound(disk, held, held)


def test_what_was_pruned_stays_pruned_and_what_is_missing_is_told() -> None:
    disk, held = make()
    process = disk.process()
    with Journal.open(LOG, process) as journal:
        journal.remove_subscriber("late")
        move(journal, "half", len(held))
        move(journal, "done", len(held))
    oldest = min(readable(process))
    assert oldest > 1
    disk.kill(process)
    disk.lose(LAYOUT.floor)
    repair(LOG, disk.process())
    assert View(LOG, disk.process()).floor().first == oldest
    disk.lose(LAYOUT.floor)
    disk.put(LAYOUT.subscriber("half"), encode_slot(b"SU", 1, State(Position(2)).encode()).ljust(4608, b"\0"))
    repair(LOG, disk.process())
    cursor = Cursor(View(LOG, disk.process()), Position(2))
    assert [(gap.first, gap.last, gap.reason) for gap in cursor.read(1)[:1]] == [(2, oldest - 1, "missing")]


def test_the_directory_of_subscribers_is_made_again() -> None:
    disk, held = make()
    for path in list(disk.files()):
        if path.parent == LAYOUT.subscribers:
            disk.lose(path)
    disk.process().rmdir(LAYOUT.subscribers)
    assert steps(disk.process()) == {"subscribers": "made"}
    assert_sound(disk, held, held)


def test_leftovers_and_strangers_are_taken_out() -> None:
    disk, held = make()
    process = disk.process()
    other = ModelDisk().process()
    Journal.create(Path("/spool/other"), disk=other)
    foreign = next(iter(other.disk.files(".seg").values()))
    put = {
        LOG / "log.json.new": b"half a file",
        LAYOUT.subscribers / "late.new": b"",
        LAYOUT.subscribers / "not a name": b"x",
        LAYOUT.segment(SegmentId(3, 77)): foreign,
        LAYOUT.segment(SegmentId(2, 99_999_999)): b"garbage" * 100,
    }
    for path, data in put.items():
        file = process.open(path, "create")
        file.append([data])
    for directory in (LOG, LAYOUT.subscribers):
        process.sync_dir(directory)
    assert readable(process) != held
    disk.kill()
    process = disk.process()
    found = repair(LOG, process)
    assert {step.path for step in found.steps if step.action == "moved"} == {str(path.relative_to(LOG)) for path in put}
    assert_sound(disk, held, held)
    for path, data in put.items():
        assert disk.files()[Path(found.quarantine) / path.relative_to(LOG)] == data
    report = msgspec.json.decode(disk.files()[Path(found.quarantine) / REPORT])
    assert report["steps"] == msgspec.to_builtins(found.steps)
    assert sum(step["bytes"] for step in report["steps"]) == sum(map(len, put.values()))


def test_segments_of_a_fenced_owner_are_counted_and_taken_out() -> None:
    disk, held = make()
    process = disk.process()
    view = View(LOG, process)
    zombie = SegmentId(max(held) - 3, 1)
    header = SegmentHeader(zombie, view.uuid, 0, 5, None, 0, host_tag(process.host()))
    batch = encode([b"never acknowledged"] * 7).stamped(zombie.first, 1, 6, 1)
    file = process.open(LAYOUT.segment(zombie), "create")
    file.append([header.encode(), batch.header(view.seed), batch.body])
    process.sync_dir(LOG)
    disk.kill()
    process = disk.process()
    assert [finding.kind for finding in check(LOG, process)] == ["zombie"]
    (step,) = repair(LOG, process).steps
    assert (step.path, step.action, step.records) == (zombie.filename, "moved", 7)
    assert list(check(LOG, process)) == []
    assert_sound(disk, held, held)


def test_an_older_head_is_never_believed() -> None:
    """A crash left the head of the epoch before; then the newest one rots away."""
    disk, held = make()
    process = disk.process()
    newest = head_of(disk)
    first = View(LOG, process).chain()[0]
    view = View(LOG, process)
    head = view.head()
    assert head is not None
    old = replace(head, epoch=1, segment=first, durable=128, written=128, next=1, visible=1, bytes_before=0)
    SlotFile.create(process, LAYOUT.head(1), HEAD, old.encode())
    disk.put(newest, b"\xff" * 4608)
    repair(LOG, process)
    assert assert_sound(disk, held, held) == held


def test_numbers_of_a_lost_segment_are_not_given_out_again() -> None:
    disk, held = make(batches=9)
    disk.lose(segments(disk)[-1])
    process = disk.process()
    repair(LOG, process)
    assert states(process) == []
    with Journal.open(LOG, process) as journal:
        (receipt,) = journal.commit([encode([b"afterwards"])])
    assert isinstance(receipt, Receipt) and receipt.first == max(held) + 1


def test_a_last_segment_with_the_contents_of_another_hides_nothing() -> None:
    disk, held = make(epochs=3, batches=5)
    disk.put(segments(disk)[-1], disk.files()[segments(disk)[0]])
    disk.lose(head_of(disk))
    before = readable(disk.process())
    repair(LOG, disk.process())
    assert_sound(disk, before, held)


def test_batches_after_damage_survive_a_head_that_is_lost() -> None:
    disk, held = make(epochs=1, batches=4)
    (last,) = segments(disk)[-1:]
    damage(disk, last, 1200)
    damage(disk, head_of(disk), 20)
    damage(disk, head_of(disk), 4096 + 20)
    repair(LOG, disk.process())
    after = assert_sound(disk, {}, held)
    assert len(held) - len(after) == PER_BATCH


# ---- who may -------------------------------------------------------------------------------------------------------


def test_it_refuses_while_the_log_is_in_use() -> None:
    disk, _ = make()
    journal = Journal.open(LOG, disk.process())
    for dry_run in (True, False):
        with pytest.raises(LogInUse, match="is in use; stop the daemon"):
            repair(LOG, disk.process(), dry_run=dry_run)
    journal.close()
    repair(LOG, disk.process())


def test_a_log_of_another_host_is_not_touched() -> None:
    disk, _ = make()
    before = disk.files()
    with pytest.raises(OwnedElsewhere, match=r"owned by host host-a since epoch 2 \(a, since .*\); repair it there"):
        repair(LOG, disk.process("b"))
    disk.lose(LAYOUT.owner)
    with pytest.raises(OwnedElsewhere, match="another host wrote it last"):
        repair(LOG, disk.process("b"))
    assert {**disk.files(), LAYOUT.owner: b""}.keys() == {**before, LAYOUT.owner: b""}.keys()


def test_what_is_no_log_is_not_touched() -> None:
    disk = ModelDisk()
    process = disk.process()
    with pytest.raises(LogNotFound):
        repair(LOG, process)
    process.mkdir(LOG)
    with pytest.raises(LogNotFound):
        repair(LOG, process)
    assert process.listdir(LOG) == []


def test_a_dry_run_says_the_same_and_changes_nothing() -> None:
    disk, _ = make()
    wreck(disk, random.Random(7), 6)
    before = disk.files()
    planned = repair(LOG, disk.process(), dry_run=True)
    after = {path: data for path, data in disk.files().items() if path != LAYOUT.owner_lock}
    assert after == {path: data for path, data in before.items() if path != LAYOUT.owner_lock}
    done = repair(LOG, disk.process())
    assert [(step.path, step.action) for step in planned.steps] == [(step.path, step.action) for step in done.steps]
    assert planned.steps and not planned.quarantine and done.quarantine


def test_an_owner_rebuilt_is_in_a_new_epoch() -> None:
    disk, held = make()
    disk.put(LAYOUT.owner, b"\0" * 4608)
    process = disk.process()
    before = View(LOG, process).head()
    repair(LOG, process)
    view = View(LOG, process)
    after = view.head()
    assert before is not None and after is not None
    assert view.owner().epoch == after.epoch == before.epoch + 1 and view.owner().host == process.host()
    assert_sound(disk, held, held)


def test_a_fenced_writer_that_has_the_owner_file_open_sees_the_new_epoch() -> None:
    disk, _ = make()
    stale = SlotFile.open(disk.process(), LAYOUT.owner, OWNER, write=False)
    old = decode_owner(stale.read(), "")
    damage(disk, LAYOUT.owner, 20)
    damage(disk, LAYOUT.owner, 4096 + 20)
    repair(LOG, disk.process())
    assert decode_owner(stale.read(), "").epoch > old.epoch


# ---- crashes at every call -----------------------------------------------------------------------------------------


def wreck(disk: ModelDisk, rng: random.Random, count: int) -> None:
    """Damage that leaves the log's identity."""
    victims = [LAYOUT.owner, LAYOUT.floor, LAYOUT.subscriber("half"), LAYOUT.subscriber("done"), head_of(disk)]
    victims += [LAYOUT.meta, *segments(disk)[1:]]
    for path in rng.sample(victims, count):
        data = bytearray(disk.files()[path])
        at = rng.randrange(len(data))
        data[at : at + 600] = rng.randbytes(len(data[at : at + 600]))
        disk.put(path, bytes(data))
    process = disk.process()
    process.open(LOG / "head-00000009.new", "create")
    process.sync_dir(LOG)
    disk.kill()


def _power_loss(disk: ModelDisk, seed: int) -> None:
    disk.crash(seed)


def _kill(disk: ModelDisk, _seed: int) -> None:
    disk.kill()
    disk.faults.clear()


@pytest.mark.parametrize(
    ("seed", "end"),
    [
        (1, _power_loss),
        (2, _kill),
        *(pytest.param(seed, end, marks=pytest.mark.slow) for seed in (2, 3, 6, 7) for end in (_power_loss, _kill)),
    ],
)
def test_a_crash_at_any_call_leaves_a_log_no_worse_than_before(
    seed: int, end: Callable[[ModelDisk, int], None]
) -> None:
    wrecked, held = make(clean=seed != 2)
    wreck(wrecked, random.Random(seed), 5)
    before, stood = readable(wrecked.process()), positions(wrecked.process())
    whole = wrecked.clone()
    process = whole.process()
    start = whole.calls
    repair(LOG, process)
    calls = whole.calls - start
    repaired = readable(process)
    assert calls > 50
    for at in range(1, calls + 1):
        disk = wrecked.clone()
        process = disk.process()
        disk.faults.append(Fault(crash=True, at=at, after=bool(at % 2)))
        with suppress(Crash):  # a call that fails by itself is not crashed after
            repair(LOG, process)
        end(disk, at)
        left = readable(disk.process())
        assert before.items() <= left.items(), f"call {at}"
        assert not [name for name, now in positions(disk.process()).items() if now > stood.get(name, now)]
        repair(LOG, disk.process())
        assert states(disk.process()) == []
        assert repaired.items() <= readable(disk.process()).items() <= held.items(), f"call {at}"


@pytest.mark.parametrize("seed", [4, pytest.param(5, marks=pytest.mark.slow)])
def test_a_disk_that_fails_at_any_call_leaves_a_log_no_worse_than_before(seed: int) -> None:
    wrecked, held = make()
    wreck(wrecked, random.Random(seed), 5)
    before = readable(wrecked.process())
    whole = wrecked.clone()
    process = whole.process()
    repair(LOG, process)
    for at in range(1, whole.calls + 1, 3):
        disk = wrecked.clone()
        disk.faults.append(Fault(error=5, at=at))
        try:
            repair(LOG, disk.process())
        except OSError:
            pass
        except JlogError as error:
            assert "locks do not work" in str(error)
        disk.kill()
        disk.faults.clear()
        assert before.items() <= readable(disk.process()).items(), f"call {at}"
        repair(LOG, disk.process())
        assert_sound(disk, before, held)


# ---- any damage ----------------------------------------------------------------------------------------------------

BASES = [make(), make(clean=False), make(epochs=3, batches=5), make(epochs=1, batches=2)]
DAMAGE = st.tuples(
    st.integers(0, 1 << 16),  # which file
    st.sampled_from(["flip", "noise", "zeros", "cut", "grow", "lose", "swap"]),
    st.integers(0, 1 << 16),  # where
    st.integers(1, 5000),  # how much
    st.integers(0, 1 << 16),
)


def strike(disk: ModelDisk, which: int, kind: str, where: int, length: int, seed: int) -> None:
    files = sorted(path for path in disk.files() if not path.name.endswith(".lock"))
    path = files[which % len(files)]
    data = bytearray(disk.files()[path])
    at = where % max(len(data), 1)
    some = len(data[at : at + length])
    if kind == "lose":
        disk.lose(path)
        return
    if kind == "flip" and data:
        data[at] ^= 1 << seed % 8
    elif kind == "noise":
        data[at : at + length] = random.Random(seed).randbytes(some)
    elif kind == "zeros":
        data[at : at + length] = bytes(some)
    elif kind == "cut":
        del data[at:]
    elif kind == "grow":
        data += random.Random(seed).randbytes(length)
    elif kind == "swap":
        other = files[seed % len(files)]
        if path.parent == other.parent == LAYOUT.subscribers:
            return  # nothing can tell the state of one subscriber from that of another
        data = bytearray(disk.files()[other])
    disk.put(path, bytes(data))


STRIKES = given(st.integers(0, len(BASES) - 1), st.booleans(), st.lists(DAMAGE, min_size=1, max_size=5))


@settings(max_examples=50)
@STRIKES
def test_any_damage_is_repaired_and_nothing_readable_is_lost(
    base: int, reboot: bool, strikes: list[tuple[int, str, int, int, int]]
) -> None:
    assert_repairable(base, reboot, strikes)


@pytest.mark.slow
@settings(max_examples=2000)
@STRIKES
def test_any_damage_is_repaired_and_nothing_readable_is_lost_at_length(
    base: int, reboot: bool, strikes: list[tuple[int, str, int, int, int]]
) -> None:
    assert_repairable(base, reboot, strikes)


def assert_repairable(base: int, reboot: bool, strikes: list[tuple[int, str, int, int, int]]) -> None:
    sound, held = BASES[base]
    disk = sound.clone()
    stood = positions(disk.process())
    for one in strikes:
        strike(disk, *one)
    if reboot:
        disk.crash(0)
    before, struck = readable(disk.process()), positions(disk.process())
    names = set(disk.process().listdir(LOG))
    try:
        repair(LOG, disk.process())
    except FormatError as error:
        assert "not known which log this is" in str(error)
        return
    except LogNotFound:
        assert not {"log.json", "owner"} & names
        return
    oldest = min(readable(disk.process()), default=1)
    for name, now in positions(disk.process()).items():
        assert now <= max(stood.get(name, 1), struck.get(name, 1), oldest), (
            f"{name} was moved past records that could be delivered"
        )
    assert_sound(disk, before, held)
