"""The rules about mounts, on mountinfo texts as the kernels of those file systems write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from jlogd.spoolcheck.mount_rules import judge
from jlogd.spoolcheck.mountinfo import Device, Facts, Mount, device_of, mount_of, parse

NFS = "rw,vers={vers},rsize=1048576,wsize=1048576,namlen=255,{hard},proto=tcp,timeo=600,retrans=2,sec=sys,{more}"


def mounted(kind: str, options: str, source: str = "server:/x", point: str = "/san") -> Mount:
    (mount,) = parse(f"40 22 0:45 / {point} rw,relatime shared:7 - {kind} {source} {options}\n")
    return mount


def told(mount: Mount, **facts: object) -> dict[str, str]:
    found = judge(Facts(mount=mount, **facts))  # type: ignore[arg-type]
    assert all(one.reason and (one.remedy or one.status == "PASS") for one in found)
    worst = {"PASS": 0, "UNKNOWN": 1, "FAIL": 2}
    result: dict[str, str] = {}
    for one in found:
        result[one.check] = max(result.get(one.check, "PASS"), one.status, key=lambda status: worst[status])
    return result


def nfs(vers: str = "4.2", hard: str = "hard", more: str = "local_lock=none,addr=10.0.0.1") -> Mount:
    return mounted("nfs4" if vers.startswith("4") else "nfs", NFS.format(vers=vers, hard=hard, more=more))


def failed(mount: Mount, **facts: object) -> list[str]:
    return [check for check, status in told(mount, **facts).items() if status == "FAIL"]


def test_a_line_of_mountinfo() -> None:
    text = (
        "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
        "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - ext3 /dev/ro\\134ot rw,errors=continue\n"
        "not a line\n"
        "99 22 0:50 / /empty rw - tmpfs \n"
    )
    proc, ext3, empty = parse(text)
    assert (proc.id, proc.point, proc.type) == (22, "/proc", "proc")
    assert (ext3.point, ext3.root, ext3.source) == ("/mnt 2", "/mnt1", "/dev/ro\\ot")
    assert ext3.options == ("rw", "noatime", "errors=continue") and ext3.value("errors") == "continue"
    assert empty.source == "" and empty.type == "tmpfs"


def test_the_mount_of_a_path_is_the_longest_and_the_last() -> None:
    text = "".join(
        f"{number} 1 8:{number} / {point} rw - ext4 /dev/{number} rw\n"
        for number, point in enumerate(("/", "/san", "/sandbox", "/san/logs", "/san/logs"), start=1)
    )
    mounts = parse(text)
    for path, number in (("/san/logs/a", 5), ("/san/log", 2), ("/sandbox", 3), ("/sand", 1), ("/", 1)):
        found = mount_of(path, mounts)
        assert found is not None and found.id == number, path
    assert mount_of("/a", []) is None


def test_the_digest_changes_with_the_options_and_not_with_their_order() -> None:
    one, same, other = (mounted("nfs4", options) for options in ("rw,hard,vers=4.2", "vers=4.2,hard,rw", "rw,soft"))
    assert one.digest == same.digest != other.digest
    assert one.digest == Mount(type="nfs4", source="server:/x", options=one.options, id=9, point="/elsewhere").digest


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_local_file_systems(kind: str) -> None:
    assert told(mounted(kind, "rw", "/dev/sda1")) == {"mount.type": "PASS"}
    assert failed(mounted(kind, "rw,nobarrier", "/dev/sda1")) == ["mount.barriers"]
    assert failed(mounted(kind, "ro", "/dev/sda1")) == ["mount.writable"]


@pytest.mark.parametrize(
    ("mount", "check"),
    [
        (nfs(more="local_lock=all"), "mount.nfs.locks"),
        (nfs(more="local_lock=flock"), "mount.nfs.locks"),
        (nfs(more="local_lock=posix"), "mount.nfs.locks"),
        (nfs("3", more="nolock,local_lock=all"), "mount.nfs.locks"),
        (nfs(hard="soft"), "mount.nfs.hard"),
        (nfs(hard="softerr"), "mount.nfs.hard"),
        (nfs(hard="hard,softreval"), "mount.nfs.hard"),
        (mounted("cifs", "rw,vers=3.1.1,cache=strict,nobrl"), "mount.cifs"),
        (mounted("cifs", "rw,vers=3.1.1,cache=strict,nostrictsync"), "mount.cifs"),
        (mounted("smb3", "rw,vers=3.1.1,cache=loose"), "mount.cifs"),
        (mounted("lustre", "rw,localflock,lazystatfs"), "mount.lustre"),
        (mounted("lustre", "rw,noflock"), "mount.lustre"),
        (mounted("gfs2", "rw,localflocks"), "mount.gfs2"),
        (mounted("gfs2", "rw,lockproto=lock_nolock"), "mount.gfs2"),
        (mounted("ocfs2", "rw,localflocks,heartbeat=local"), "mount.ocfs2"),
        (mounted("ceph", "rw,name=admin,recover_session=clean"), "mount.ceph"),
        (mounted("9p", "rw,trans=virtio,cache=loose"), "mount.type"),
        (mounted("fuse.sshfs", "rw,user_id=0"), "mount.type"),
        (mounted("fuse.s3fs", "rw,user_id=0"), "mount.type"),
        (mounted("fuse", "rw,user_id=0", "sshfs#root@host:/x"), "mount.type"),
        (mounted("fuse.whatever", "rw,user_id=0"), "mount.type"),
        (mounted("fuse", "rw,user_id=0", "whatever"), "mount.type"),
    ],
)
def test_options_that_lose_records(mount: Mount, check: str) -> None:
    assert failed(mount) == [check]


@pytest.mark.parametrize(
    ("mount", "expected"),
    [
        (nfs(), {"locks": "PASS", "cache": "UNKNOWN", "export": "UNKNOWN"}),
        (nfs("4.1", more="noac,local_lock=none"), {"locks": "PASS", "export": "UNKNOWN"}),
        (nfs("4.0"), {"locks": "PASS", "version": "UNKNOWN", "cache": "UNKNOWN", "export": "UNKNOWN"}),
        (nfs("3"), {"locks": "PASS", "version": "UNKNOWN", "cache": "UNKNOWN", "export": "UNKNOWN"}),
    ],
)
def test_nfs_that_may_be_right(mount: Mount, expected: dict[str, str]) -> None:
    assert told(mount) == {f"mount.nfs.{check}": status for check, status in expected.items()}


def test_nfs_that_takes_lost_locks_again() -> None:
    assert failed(nfs(), recover_lost_locks=True) == ["mount.nfs.recover_lost_locks"]


@pytest.mark.parametrize(
    ("mount", "status"),
    [
        (mounted("cifs", "rw,vers=3.1.1,cache=strict"), {"mount.type": "UNKNOWN"}),
        (mounted("lustre", "rw,flock,lazystatfs"), {"mount.lustre": "PASS"}),
        (mounted("lustre", "rw,lazystatfs"), {"mount.lustre": "UNKNOWN"}),
        (mounted("gfs2", "rw"), {"mount.gfs2": "PASS"}),
        (mounted("ocfs2", "rw,cluster_stack=pcmk"), {"mount.ocfs2": "PASS"}),
        (mounted("ocfs2", "rw,heartbeat=local"), {"mount.ocfs2": "UNKNOWN"}),
        (mounted("ceph", "rw,name=admin,acl"), {"mount.ceph": "PASS"}),
        (mounted("fuse.ceph-fuse", "rw"), {"mount.ceph": "PASS", "mount.type": "UNKNOWN"}),
        (mounted("fuse.glusterfs", "rw"), {"mount.type": "UNKNOWN"}),
        (mounted("fuseblk", "rw", "/dev/sdb1"), {"mount.type": "UNKNOWN"}),
        (mounted("virtiofs", "rw"), {"mount.type": "UNKNOWN"}),
        (mounted("beegfs", "rw"), {"mount.type": "UNKNOWN"}),
        (mounted("tmpfs", "rw"), {"mount.type": "UNKNOWN"}),
        (mounted("ext2", "rw"), {"mount.type": "UNKNOWN"}),
        (mounted("vfat", "rw"), {"mount.type": "UNKNOWN"}),
    ],
)
def test_what_is_known_of_others(mount: Mount, status: dict[str, str]) -> None:
    assert told(mount) == status


def test_overlays_are_judged_by_their_upper_directory() -> None:
    overlay = mounted("overlay", "rw,lowerdir=/l,upperdir=/u,workdir=/w")
    assert told(overlay) == {"mount.overlay": "UNKNOWN"}  # as in a container
    assert told(overlay, upper=mounted("ext4", "rw", "/dev/sda1")) == {"mount.overlay": "PASS"}
    assert told(overlay, upper=mounted("tmpfs", "rw")) == {"mount.overlay": "UNKNOWN"}
    for kind in ("nfs4", "cifs", "ceph", "fuse.glusterfs"):
        assert failed(overlay, upper=mounted(kind, "rw")) == ["mount.overlay"]
    for option in ("volatile", "fsync=volatile"):
        assert failed(mounted("overlay", f"rw,upperdir=/u,{option}"), upper=mounted("ext4", "rw")) == ["mount.overlay"]


def test_a_mount_that_statfs_does_not_know() -> None:
    assert told(mounted("ext4", "rw"), magic=0xEF53) == {"mount.type": "PASS"}
    assert told(mounted("ext4", "rw"), magic=0x6969)["mount.magic"] == "UNKNOWN"
    assert "mount.magic" not in told(mounted("fuse.sshfs", "rw"), magic=0x65735546)


def test_one_disk_on_two_paths_is_the_end() -> None:
    disk = Device(number="8:1", wwids=("naa.6001-part1",), fabric=True)
    assert told(mounted("xfs", "rw"), device=disk) == {"mount.type": "PASS", "device.shared": "UNKNOWN"}
    assert failed(mounted("xfs", "rw"), device=disk, twins=("/other",)) == ["device.once"]
    assert "device.shared" not in told(mounted("gfs2", "rw"), device=disk)


def block(sysfs: Path, number: str, path: str, **files: str) -> Path:
    at = sysfs / "devices" / path
    at.mkdir(parents=True)
    for name, text in files.items():
        file = at / name.replace("__", "/")
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{text}\n")
    link = sysfs / "dev" / "block" / number
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(at)
    return at


def test_devices_in_sysfs(tmp_path: Path) -> None:
    block(tmp_path, "8:0", "pci0/ata1/block/sda", device__wwid="naa.1", queue__write_cache="write back")
    part = block(tmp_path, "8:1", "pci0/ata1/block/sda/sda1", partition="1")
    iscsi = block(tmp_path, "8:16", "host9/session1/target9/block/sdb", device__wwid="naa.2", queue__write_cache="x")
    fibre = block(tmp_path, "8:32", "host3/rport-3:0-1/target3/block/sdc", device__wwid="naa.2")
    fabric = block(tmp_path, "259:0", "nvme/nvme1/nvme1n1", wwid="uuid.3", device__transport="tcp")
    mapped = block(tmp_path, "254:0", "virtual/block/dm-0")
    for below in (iscsi, fibre):
        (mapped / "slaves").mkdir(exist_ok=True)
        (mapped / "slaves" / below.name).symlink_to(below)
    volume = block(tmp_path, "254:1", "virtual/block/dm-1", slaves__nothing="")
    (volume / "slaves" / "nothing").unlink()
    (volume / "slaves" / "dm-0").symlink_to(mapped)
    assert part.is_dir() and fabric.is_dir()

    def found(number: str) -> Device:
        device = device_of(number, tmp_path)
        assert device is not None
        return device

    assert found("8:0") == Device(number="8:0", wwids=("naa.1",), cache="write back")
    assert found("8:1").wwids == ("naa.1-part1",) and not found("8:1").fabric
    assert found("8:16").fabric and found("8:32").fabric and found("259:0").fabric
    assert found("254:0").wwids == found("254:1").wwids == ("naa.2", "naa.2") and found("254:1").fabric
    assert device_of("0:45", tmp_path) is None and device_of("7:7", tmp_path) is None
