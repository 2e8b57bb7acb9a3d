"""A soak: a daemon, writers and subscribers of two hosts on one small disk, and everything that may befall them.

    python tests/soak.py --minutes 60            or: make soak MINUTES=60
    python tests/soak.py --operations 40 --seed 7

At random, again and again: processes are killed or paused, the daemon is restarted, the host loses its page of locks
and another one takes the log over while the former owner sleeps and then goes on, hosts reboot, the disk is filled,
subscribers come and go. At the end the oracle (`soak_oracle.py`) counts. What came of it is printed as JSON; the exit
code is 0 when every acknowledged record was delivered to every subscriber once, in order, and nothing else was.

Everything runs in mount and process namespaces of its own: the disk is a tmpfs that only they see, and a host is a
machine-id and a boot-id, bound over those of this machine. Both hosts see one coherent file system and, until locks
are lost, one lock service. Local writers open the directory, remote ones and one subscriber go through the daemon.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path

from ports import free_ports
from soak_oracle import SoakOracle

from jlogd.journal.check import check
from jlogd.journal.disk import PosixDisk
from jlogd.journal.spool import DAEMON_LOCK
from jlogd.journal.view import View

HERE = Path(__file__).parent
DISK_BYTES = 12 << 20
SEGMENT_SIZE = "128KiB"
# Longer than anything here takes on a machine that does ten other things.
PATIENCE_SECONDS = 300.0
NODE = "soak"  # whose spool it is, on whichever host
LOCAL_WRITERS, REMOTE_WRITERS = ("local1", "local2"), ("remote1", "remote2")
SUBSCRIBERS = ("directory", "wire")
# Lock files of a log. A host that lost its lease holds locks that nobody else sees: these go under its hands.
LOCKS = ("owner.lock", "append.lock", "prune.lock", "subscribers/*.lock")
_NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "--propagation=private"]
_UNSHARE = ["unshare", "--mount", "--propagation=private"]
_HOST = 'mount --bind "$1" /etc/machine-id && mount --bind "$2" /proc/sys/kernel/random/boot_id && shift 2 && exec "$@"'


class Worker:
    """A process of a host, and the lines it has written so far."""

    def __init__(self, role: str, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self.role = role
        self.process = process
        self.pipe = process.stdout.fileno()
        os.set_blocking(self.pipe, False)
        self._rest = b""

    def lines(self) -> list[str]:
        try:
            while data := os.read(self.pipe, 1 << 16):
                self._rest += data
        except (BlockingIOError, ValueError):
            pass
        *whole, self._rest = self._rest.split(b"\n")
        return [line.decode() for line in whole]


class Host:
    """A machine-id, a boot-id, ports, and the processes it runs."""

    def __init__(self, name: str, work: Path, spool: Path) -> None:
        self.name = name
        self.spool = spool
        self.errors = work / f"{name}.log"
        self._machine, self._boot = work / f"{name}.machine-id", work / f"{name}.boot-id"
        self._config = work / f"{name}.toml"
        self._machine.write_text(uuid.uuid5(uuid.NAMESPACE_DNS, name).hex + "\n")
        self.workers: dict[str, Worker] = {}
        self.boot()
        self.zmq, self.http = free_ports(2)
        self._config.write_text(
            f'[node]\nname = "{NODE}"\nspool = "{spool}"\n'
            f'[listen]\nzmq = ["tcp://127.0.0.1:{self.zmq}"]\nhttp = "127.0.0.1:{self.http}"\n'
            f'[log.log]\nsubscribers = {json.dumps(SUBSCRIBERS)}\nsegment_size = "{SEGMENT_SIZE}"\n'
        )

    def boot(self) -> None:
        """The next process that starts finds a new boot."""
        self._boot.unlink(missing_ok=True)  # those that run keep the one they have
        self._boot.write_text(f"{uuid.uuid4()}\n")

    def start(self, role: str, *command: str) -> Worker:
        with self.errors.open("ab") as errors:
            process = subprocess.Popen(
                [*_UNSHARE, "sh", "-c", _HOST, "sh", self._machine, self._boot, sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": str(HERE.parent)},
            )
        self.workers[role] = Worker(role, process)
        return self.workers[role]

    def run(self, role: str) -> Worker:
        """Start one of the processes that every owner runs."""
        if role == "daemon":
            return self.start(role, "-m", "jlogd.cli.jlogd", "run", "--config", str(self._config))
        what = "consume" if role in SUBSCRIBERS else "produce"
        target = f"tcp://127.0.0.1:{self.zmq}/log" if role in (*REMOTE_WRITERS, "wire") else str(self.spool / "log")
        return self.start(role, str(HERE / "soak_worker.py"), what, target, role)


def _sleeps(worker: Worker) -> bool:
    """Whether all threads of a process are stopped, or it has ended."""
    try:
        tasks = list(Path(f"/proc/{worker.process.pid}/task").glob("*/stat"))
        return all(path.read_text().rpartition(")")[2].split()[0] in "TZX" for path in tasks)
    except FileNotFoundError:
        return worker.process.poll() is not None


class Soak:
    """The two hosts, what befalls them, and the oracle."""

    ROLES = ("daemon", *LOCAL_WRITERS, *REMOTE_WRITERS, *SUBSCRIBERS)

    def __init__(self, work: Path, rng: random.Random) -> None:
        self.spool = work / "spool"
        self.spool.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "soak", self.spool], check=True)
        self.log = self.spool / "log"
        self.rng = rng
        self.oracle = SoakOracle()
        self.counts: Counter[str] = Counter()
        self.hosts = [Host("a", work, self.spool), Host("b", work, self.spool)]
        self.owner = self.hosts[0]
        self.guests = 0
        self.done_at: dict[str, int] = {}
        self._ended: list[Worker] = []

    # ---- processes ---------------------------------------------------------------------------------------------------

    def start_owner(self) -> None:
        """Everything an owner runs: the daemon first, which makes the log."""
        self.owner.run("daemon")
        self.until(lambda: self.log.exists(), "the daemon has made the log")
        for role in self.ROLES[1:]:
            self.owner.run(role)

    def kill(self, host: Host, role: str, how: signal.Signals = signal.SIGKILL) -> None:
        """End a process, and hear its last words."""
        worker = host.workers.pop(role)
        if worker.process.poll() is None:
            worker.process.send_signal(how)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while worker.process.poll() is None:
            self.hear(worker)  # it may be stuck in a full pipe
            assert time.monotonic() < deadline, f"{role} of {host.name} does not end"
            time.sleep(0.005)
        self.hear(worker)
        assert worker.process.stdout is not None
        worker.process.stdout.close()

    def listen(self, seconds: float) -> None:
        """Hear what everybody says for a while."""
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            for worker in [worker for host in self.hosts for worker in host.workers.values()]:
                selector.register(worker.pipe, selectors.EVENT_READ, worker)
            while (left := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(min(left, 0.1)):
                    self.hear(key.data)
                    if key.data.process.poll() is not None:
                        selector.unregister(key.fd)

    def until(self, true: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not true():
            self.listen(0.05)
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {PATIENCE_SECONDS:g} s: {what}; {self.whereabouts()}")

    def whereabouts(self) -> str:
        """What everybody is doing, for whoever has to find out why somebody hangs."""
        workers = [(host, worker) for host in self.hosts for worker in host.workers.values()]
        told = [f"{host.name} {worker.role}: {worker.process.poll()}" for host, worker in workers]
        self.signal([worker for _, worker in workers if worker.role != "daemon"], signal.SIGUSR1)
        self.listen(2.0)
        logs = "\n".join(f"{host.name}: {host.errors.read_text()[-6000:]}" for host in self.hosts)
        return f"{told}\n{logs}"

    def hear(self, worker: Worker) -> None:
        for line in worker.lines():
            word, *rest = line.split(" ")
            if word in ("at", "issued", "acked"):
                {"at": self.oracle.at, "issued": self.oracle.issue, "acked": self.oracle.ack}[word](
                    worker.role, int(rest[0])
                )
            elif word == "got":
                self.oracle.got(worker.role, int(rest[0]), int(rest[1]), rest[2], int(rest[3]))
            elif word == "gap":
                self.oracle.gap(worker.role, int(rest[0]), int(rest[1]), rest[2])
            elif word in ("refused", "failed", "fenced"):
                self.counts[f"{word}: {rest[0].rstrip(':')}"] += 1
            else:
                assert word in ("done", "gone", "took"), f"{worker.role}: {line}"

    # ---- what befalls them -------------------------------------------------------------------------------------------

    def misfortune(self) -> None:
        """One thing that goes wrong, and what follows from it."""
        kinds: dict[Callable[[], None], int] = {
            self.kill_some: 8, self.restart_daemon: 3, self.pause_some: 5, self.fill_disk: 2, self.reboot: 1,
            self.polite_takeover: 1, self.rude_takeover: 3, self.guest: 4,
        }  # fmt: skip
        what = self.rng.choices(list(kinds), list(kinds.values()))[0]
        self.counts["operations"] += 1
        what()
        self.tend()
        self.listen(self.rng.choice([0.1, 0.5, 1.0, 3.0]))

    def tend(self) -> None:
        """Who ended by itself is started again: a daemon that met a full disk, for example."""
        for role in self.ROLES:
            worker = self.owner.workers.get(role)
            if worker is not None and worker.process.poll() is not None:
                self.counts["ended by themselves"] += 1
                self.kill(self.owner, role)
            if role not in self.owner.workers:
                self.owner.run(role)
        for host in self.hosts:
            for role, worker in list(host.workers.items()):
                if role.startswith("guest") and worker.process.poll() is not None:
                    self.kill(host, role)

    def kill_some(self) -> None:
        for role in self.rng.sample(self.ROLES, self.rng.choice([1, 1, 2, 5])):
            self.kill(self.owner, role)
            self.counts["kills"] += 1
        if self.rng.random() < 0.5:
            self.listen(self.rng.choice([0.1, 1.0]))

    def restart_daemon(self) -> None:
        self.kill(self.owner, "daemon", signal.SIGTERM)
        self.counts["clean restarts of the daemon"] += 1

    def pause_some(self) -> None:
        victims = [self.owner.workers[role] for role in self.rng.sample(self.ROLES, self.rng.choice([1, 2, 4]))]
        self.signal(victims, signal.SIGSTOP)
        self.counts["pauses"] += len(victims)
        self.listen(self.rng.choice([0.2, 1.0, 3.0]))
        self.signal(victims, signal.SIGCONT)

    def fill_disk(self) -> None:
        filler = self.spool / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(64 << 10)):
                    pass
            except OSError:
                self.counts["full disks"] += 1
        self.listen(self.rng.choice([1.0, 3.0]))
        if self.rng.random() < 0.5:
            self.kill_some()
            self.tend()
            self.listen(2.0)
        filler.unlink()

    def reboot(self) -> None:
        self.stop_all(self.owner)
        self.owner.boot()
        self.counts["reboots"] += 1

    def polite_takeover(self) -> None:
        """The owner is down, and the other host takes over."""
        self.stop_all(self.owner, signal.SIGTERM if self.rng.random() < 0.5 else signal.SIGKILL)
        self.hand_over()
        self.counts["takeovers of a dead host"] += 1

    def rude_takeover(self) -> None:
        """The owner sleeps, its locks are lost, the other host takes over; then the former owner goes on."""
        former, asleep = self.owner, list(self.owner.workers.values())
        self.signal(asleep, signal.SIGSTOP)
        self.until(lambda: all(map(_sleeps, asleep)), "all of the owner sleeps")  # else it might lock the new files
        for path in chain(*map(self.log.glob, LOCKS), self.log.parent.glob(DAEMON_LOCK)):
            path.unlink()
        self.hand_over()
        self.tend()
        self.listen(self.rng.choice([0.0, 1.0, 3.0]))
        self.signal(asleep, signal.SIGCONT)
        self.counts["takeovers of a sleeping host"] += 1
        writers = [worker for worker in asleep if worker.role in LOCAL_WRITERS]
        self.until(lambda: all(w.process.poll() is not None for w in writers), "the former owner's writers end")
        self.listen(self.rng.choice([0.1, 1.0]))
        self.counts["stale writers that ended"] += len(writers)
        self.look()
        self.stop_all(former)

    def hand_over(self) -> None:
        self.owner = self.hosts[1 - self.hosts.index(self.owner)]
        taker = self.owner.start("taker", str(HERE / "soak_worker.py"), "take", str(self.log.parent))
        self.until(lambda: taker.process.poll() is not None, "the takeover is over")
        assert taker.process.returncode == 0, self.owner.errors.read_text()[-2000:]
        self.kill(self.owner, "taker")

    def guest(self) -> None:
        """A subscriber comes, and goes by itself or is killed; what it leaves is removed."""
        self.guests += 1
        name, start = f"guest{self.guests}", self.rng.choice(["begin", "end"])
        target = self.rng.choice([str(self.log), f"tcp://127.0.0.1:{self.owner.zmq}/log"])
        self.owner.start(name, str(HERE / "soak_worker.py"), "visit", target, name, start)
        self.counts["guests"] += 1
        self.listen(self.rng.choice([0.3, 1.0, 3.0]))
        self.kill(self.owner, name)
        remover = self.owner.start(f"{name} removal", str(HERE / "soak_worker.py"), "remove", str(self.log), name)
        self.until(lambda: remover.process.poll() is not None, "a guest is removed")
        assert remover.process.returncode == 0, self.owner.errors.read_text()[-2000:]
        self.kill(self.owner, remover.role)
        self.oracle.next.pop(name, None)

    def stop_all(self, host: Host, how: signal.Signals = signal.SIGKILL) -> None:
        for role in list(host.workers):
            self.kill(host, role, how)

    def signal(self, workers: list[Worker], number: signal.Signals) -> None:
        for worker in workers:
            if worker.process.poll() is None:
                worker.process.send_signal(number)

    def look(self) -> None:
        """Check every byte of the log while it is in use."""
        for finding in check(self.log):
            if finding.harmless:
                self.counts[f"{finding.kind} bytes seen"] += finding.bytes
            else:  # that an epoch has no head yet is true for as long as a recovery takes
                assert "no head yet" in finding.message, finding
        self.counts["checks"] += 1

    # ---- the end -----------------------------------------------------------------------------------------------------

    def finish(self) -> dict[str, object]:
        """Nothing befalls anybody any more: everybody gets everything. What came of it."""
        for role in (*LOCAL_WRITERS, *REMOTE_WRITERS):
            self.kill(self.owner, role)
        self.tend_readers()
        self.stop_all(self.owner)
        self.look()
        head = View(self.log, PosixDisk()).head()
        assert head is not None
        return {
            "records": self.oracle.whole(SUBSCRIBERS, head.visible),
            "epoch": head.epoch,
            **self.oracle.counts,
            **dict(sorted(self.counts.items())),
        }

    def tend_readers(self) -> None:
        if self.owner.workers["daemon"].process.poll() is not None:
            self.kill(self.owner, "daemon")
            self.owner.run("daemon")

        def all_read() -> bool:
            head = View(self.log, PosixDisk()).head()
            return head is not None and all(self.oracle.next.get(name, 1) == head.visible for name in SUBSCRIBERS)

        self.until(all_read, "the subscribers have everything")
        self.listen(1.0)  # what the daemon still had of the remote writers
        self.until(all_read, "the subscribers have everything")


def soak(work: Path, seed: int, seconds: float, operations: int) -> dict[str, object]:
    """Run one; what came of it. Raises AssertionError."""
    rng = random.Random(seed)
    scene = Soak(work, rng)
    started = said = time.monotonic()
    try:
        scene.start_owner()
        scene.listen(3.0)
        while scene.counts["operations"] < operations and time.monotonic() - started < seconds:
            scene.misfortune()
            if time.monotonic() - said > 30:
                said = time.monotonic()
                told = f"{said - started:.0f} s: {scene.oracle.counts['delivered']} delivered, {dict(scene.counts)}"
                print(told, file=sys.stderr, flush=True)
        return {"seed": seed, "seconds": round(time.monotonic() - started), **scene.finish()}
    finally:
        for host in scene.hosts:
            for worker in host.workers.values():
                worker.process.kill()
        for host in scene.hosts:
            for worker in host.workers.values():
                worker.process.wait()
        subprocess.run(["umount", "--lazy", scene.spool], check=False)


def main() -> None:
    """Parse the command line, move into namespaces, soak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long, at most (default: 60)")
    parser.add_argument("--operations", type=int, default=1 << 30, help="how many misfortunes, at most")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32), help="of all that is chosen")
    parser.add_argument("--keep", action="store_true", help="leave the directory with the logs of the processes")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside is None:
        work = tempfile.mkdtemp(prefix="jlogd-soak-")
        users = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
        try:
            ended = subprocess.run([*_NAMESPACES, *users, sys.executable, __file__, *sys.argv[1:], "--inside", work])
        finally:
            if options.keep:
                print(work, file=sys.stderr)
            else:
                shutil.rmtree(work, ignore_errors=True)
        sys.exit(ended.returncode)
    print(f"seed {options.seed}", file=sys.stderr, flush=True)
    print(json.dumps(soak(Path(options.inside), options.seed, options.minutes * 60, options.operations)))


if __name__ == "__main__":
    main()
