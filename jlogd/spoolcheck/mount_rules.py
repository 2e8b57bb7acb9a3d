"""Rules about mounts: from facts to findings, without looking at anything.

A rule says what is known of a kind of file system and its options. Whatever a rule calls UNKNOWN may still be shown:
the checks that lock and sync say what this host does, those with a peer what two hosts do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from jlogd.spoolcheck.findings import Finding, failed, passed, unknown
from jlogd.spoolcheck.mountinfo import Facts, Mount

# One host, a journal or copy-on-write, syncs that reach the device.
LOCAL = ("ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "bcachefs", "ext3")
VOLATILE = ("tmpfs", "ramfs", "devtmpfs")
# Known to keep appends, renames or locks from working as a log needs them.
_UNFIT_FUSE = (
    "sshfs", "s3fs", "goofys", "gcsfuse", "rclone", "davfs", "curlftpfs", "mount-s3", "blobfuse", "blobfuse2",
    "mountpoint-s3", "geesefs", "archivemount", "encfs", "gvfsd-fuse", "portal",
)  # fmt: skip
_CLUSTERED_FUSE = ("glusterfs", "ceph", "ceph-fuse", "mfs", "moosefs", "lizardfs", "saunafs", "juicefs", "orangefs")
_NETWORK = (
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gfs2", "ocfs2", "ceph", "beegfs", "gpfs", "9p", "virtiofs",
    "afs", "pvfs2", "orangefs",
)  # fmt: skip
_MAGIC = {
    "ext4": 0xEF53, "ext3": 0xEF53, "ext2": 0xEF53, "xfs": 0x58465342, "btrfs": 0x9123683E, "tmpfs": 0x01021994,
    "overlay": 0x794C7630, "nfs": 0x6969, "nfs4": 0x6969, "gfs2": 0x01161970, "ocfs2": 0x7461636F, "ceph": 0x00C36400,
    "lustre": 0x0BD00BD0, "9p": 0x01021997, "f2fs": 0xF2F52010, "zfs": 0x2FC12FC1, "fuse": 0x65735546,
}  # fmt: skip
_PROVE = "prove it with a second host: jlogctl check-spool DIR --serve there, --peer here"
_LOCAL_DISK = "put the spool on ext4 or XFS of a disk or LUN that one host has"


def is_network(mount: Mount) -> bool:
    """Whether other hosts may be behind it."""
    return mount.type in _NETWORK or _fuse(mount) in _CLUSTERED_FUSE


def is_local(mount: Mount) -> bool:
    """Whether it is a file system of one host: shared between two it is destroyed, whatever locks say."""
    return mount.type in LOCAL or mount.type == "ext2"


def judge(facts: Facts) -> list[Finding]:
    """Every rule that applies."""
    return [*_writable(facts), *_kind(facts), *_magic(facts), *_device(facts)]


def _writable(facts: Facts) -> Iterator[Finding]:
    if facts.mount.has("ro"):
        yield failed("mount.writable", f"{facts.mount.point} is mounted read-only", "mount it read-write")


def _magic(facts: Facts) -> Iterator[Finding]:
    kind = "fuse" if facts.mount.type.startswith("fuse") else facts.mount.type
    expected = _MAGIC.get(kind)
    if expected is not None and facts.magic and facts.magic != expected:
        yield unknown(
            "mount.magic",
            f"mountinfo says {facts.mount.type}, statfs says 0x{facts.magic:08x}",
            "another mount may cover the directory: run the check where the daemon runs, in the same namespace",
        )


def _kind(facts: Facts) -> Iterator[Finding]:
    mount = facts.mount
    rule = _RULES.get(mount.type)
    if rule is not None:
        yield from rule(facts)
    elif mount.type in LOCAL:
        yield from _local(mount)
    elif mount.type in VOLATILE:
        yield unknown(
            "mount.type",
            f"{mount.type}: in memory; everything acknowledged is gone when this host stops",
            f"for tests only; {_LOCAL_DISK}",
        )
    elif mount.type.startswith("fuse"):
        yield from _fuse_rule(facts)
    else:
        yield unknown("mount.type", f"{mount.type}: no rule knows it", f"{_LOCAL_DISK}, or {_PROVE}")


def _local(mount: Mount) -> Iterator[Finding]:
    if mount.has("nobarrier", "barrier=0"):
        yield failed(
            "mount.barriers",
            f"{mount.type} with write barriers off: a sync does not reach the medium, power loss takes what was acked",
            "mount with barriers on",
        )
    else:
        yield passed("mount.type", f"{mount.type} on {mount.source or mount.device}: a file system of one host")


def _ext2(facts: Facts) -> Iterator[Finding]:
    yield unknown(
        "mount.type",
        "ext2 keeps no journal: after a crash, names that were synced may need fsck",
        "use ext4 or XFS",
    )


def _overlay(facts: Facts) -> Iterator[Finding]:
    mount, upper = facts.mount, facts.upper
    if mount.has("volatile") or mount.value("fsync") == "volatile":
        yield failed("mount.overlay", "a volatile overlay: it leaves every sync out", "mount it without `volatile`")
    elif upper is None:
        yield unknown(
            "mount.overlay",
            "an overlay whose upper directory cannot be seen from here, as in a container; it goes with the container",
            "give the spool a volume of its own",
        )
    elif is_network(upper) or upper.type.startswith("fuse"):
        yield failed(
            "mount.overlay",
            f"an overlay with its upper directory on {upper.type} ({upper.point})",
            "give the spool a mount of its own, and check that one",
        )
    elif upper.type in VOLATILE:
        yield unknown(
            "mount.overlay",
            f"an overlay with its upper directory on {upper.type}: gone when this host stops",
            _LOCAL_DISK,
        )
    else:
        yield passed("mount.overlay", f"an overlay with its upper directory on {upper.type} ({upper.point})")


def _nfs(facts: Facts) -> Iterator[Finding]:
    mount = facts.mount
    version = mount.value("vers") or mount.value("nfsvers")
    local = mount.value("local_lock") or "none"
    if mount.has("nolock") or local != "none":
        found = "nolock" if mount.has("nolock") else f"local_lock={local}"
        yield failed("mount.nfs.locks", f"NFS with {found}: locks hold on this host only", f"mount without {found}")
    else:
        yield passed("mount.nfs.locks", "NFS that asks the server for locks")
    soft = [name for name in ("soft", "softerr", "softreval") if mount.has(name)]
    if soft:
        yield failed(
            "mount.nfs.hard",
            f"NFS with {soft[0]}: a slow server makes writes and syncs fail, or old attributes pass for new",
            "mount with hard, without softreval",
        )
    if facts.recover_lost_locks:
        yield failed(
            "mount.nfs.recover_lost_locks",
            "the nfs module takes lost locks again behind the back of their holder",
            "set nfs.recover_lost_locks=0",
        )
    if not version.startswith("4"):
        yield unknown(
            "mount.nfs.version",
            f"NFS {version or 'of an unknown version'}: the server may keep the locks of a crashed host for ever",
            "mount with vers=4.1 or later",
        )
    elif version in ("4", "4.0"):
        yield unknown("mount.nfs.version", "NFS 4.0: no sessions, so a retry may be done twice", "mount with vers=4.2")
    if not mount.has("noac") and mount.value("actimeo") != "0":
        yield unknown(
            "mount.nfs.cache",
            "NFS that caches attributes: another host may not see new files and lengths for a minute",
            f"mount with noac (or actimeo=0) and lookupcache=none, or {_PROVE}",
        )
    yield unknown(
        "mount.nfs.export",
        "whether the server syncs before it answers cannot be seen here",
        "ask its operator: the export must be `sync`, and its disk's write cache safe",
    )


def _cifs(facts: Facts) -> Iterator[Finding]:
    mount = facts.mount
    yield from _forbidden(
        mount,
        {
            "nobrl": "locks are never sent to the server",
            "nostrictsync": "fsync does not ask the server to sync",
            "cache=loose": "data is read from a cache that other hosts' writes do not renew",
        },
        "mount.cifs",
    )
    yield unknown("mount.type", "SMB: a server may grant locks and syncs it does not keep", _PROVE)


def _lustre(facts: Facts) -> Iterator[Finding]:
    mount = facts.mount
    if mount.has("localflock"):
        yield failed("mount.lustre", "Lustre with localflock: locks hold on this host only", "mount with flock")
    elif mount.has("noflock"):
        yield failed("mount.lustre", "Lustre with noflock: every lock fails", "mount with flock")
    elif mount.has("flock"):
        yield passed("mount.lustre", "Lustre with flock: locks are those of the cluster")
    else:
        yield unknown("mount.lustre", "Lustre without a lock option: older ones refuse locks", "mount with flock")


def _gfs2(facts: Facts) -> Iterator[Finding]:
    mount = facts.mount
    if mount.has("localflocks") or mount.value("lockproto") == "lock_nolock":
        yield failed("mount.gfs2", "GFS2 with locks of this host only", "mount without localflocks, with lock_dlm")
    else:
        yield passed("mount.gfs2", "GFS2: POSIX locks go through the cluster; slow, but in one order on all hosts")


def _ocfs2(facts: Facts) -> Iterator[Finding]:
    mount = facts.mount
    if mount.has("localflocks"):
        yield failed("mount.ocfs2", "OCFS2 with localflocks: locks hold on this host only", "mount without localflocks")
    elif mount.value("cluster_stack"):
        yield passed("mount.ocfs2", f"OCFS2 with the cluster stack {mount.value('cluster_stack')}")
    else:
        yield unknown(
            "mount.ocfs2",
            "OCFS2 without a user-space cluster stack keeps POSIX locks to this host",
            f"use the stack of Pacemaker, or {_PROVE}",
        )


def _ceph(facts: Facts) -> Iterator[Finding]:
    if facts.mount.value("recover_session") == "clean":
        yield failed(
            "mount.ceph",
            "CephFS with recover_session=clean: a host that was cut off comes back without its locks and is not told",
            "mount with recover_session=no",
        )
    else:
        yield passed("mount.ceph", "CephFS: locks are kept by its metadata server")


def _shared_with_host(facts: Facts) -> Iterator[Finding]:
    cache = facts.mount.value("cache")
    if cache in ("loose", "fscache", "mmap"):
        yield failed("mount.type", f"{facts.mount.type} with cache={cache}: others' writes stay unseen", "cache=none")
    else:
        yield unknown(
            "mount.type",
            f"{facts.mount.type}: a directory of the machine's host; its locks may end at this guest",
            f"use a disk of the guest, or {_PROVE}",
        )


def _fuse(mount: Mount) -> str:
    """What serves a FUSE mount, or ""."""
    if not mount.type.startswith("fuse"):
        return ""
    program, sharp, _ = mount.source.partition("#")
    return mount.type.partition(".")[2] or (program if sharp else "")


def _fuse_rule(facts: Facts) -> Iterator[Finding]:
    kind = _fuse(facts.mount)
    if facts.mount.type == "fuseblk":
        yield unknown("mount.type", f"{kind or 'FUSE'} on a block device: a crash may cost names", _LOCAL_DISK)
    elif kind in _UNFIT_FUSE:
        yield failed("mount.type", f"{kind}: no locks between hosts, and appends or syncs that are not", _LOCAL_DISK)
    elif kind in _CLUSTERED_FUSE:
        if kind.startswith("ceph"):
            yield from _ceph(facts)
        yield unknown("mount.type", f"{kind}: a clustered file system; locks are as it is configured", _PROVE)
    elif kind == "bindfs":
        yield failed(
            "mount.type",
            "bindfs: a file that is open is missing for a moment while it is replaced; locks end at this mount",
            "use the directory below it",
        )
    else:
        yield failed(
            "mount.type",
            f"FUSE, served by {kind or 'an unknown program'}: nothing is known of its locks and syncs",
            f"{_LOCAL_DISK}; or {_PROVE}, and accept what is left: --accept-risk",
        )


def _forbidden(mount: Mount, options: dict[str, str], check: str) -> Iterator[Finding]:
    for option, why in options.items():
        if mount.has(option):
            yield failed(check, f"{mount.type} with {option}: {why}", f"mount without {option}")


def _network(facts: Facts) -> Iterator[Finding]:
    yield unknown("mount.type", f"{facts.mount.type}: other hosts may be behind it", _PROVE)


_RULES: dict[str, Callable[[Facts], Iterator[Finding]]] = {
    **dict.fromkeys(_NETWORK, _network),
    "ext2": _ext2,
    "overlay": _overlay,
    "nfs": _nfs,
    "nfs4": _nfs,
    "cifs": _cifs,
    "smb3": _cifs,
    "smbfs": _cifs,
    "lustre": _lustre,
    "gfs2": _gfs2,
    "ocfs2": _ocfs2,
    "ceph": _ceph,
    "9p": _shared_with_host,
    "virtiofs": _shared_with_host,
}


def _device(facts: Facts) -> Iterator[Finding]:
    device = facts.device
    if facts.twins:
        yield failed(
            "device.once",
            f"the same disk is mounted to write at {', '.join(facts.twins)} too, through another path",
            "unmount all but one at once, run fsck, and mount the multipath device",
        )
    if device is not None and device.fabric and is_local(facts.mount):
        yield unknown(
            "device.shared",
            f"{facts.mount.type} on a LUN: mounted on a second host at the same time it is destroyed, locks or not",
            "let a cluster manager with fencing mount it, or LVM activate it exclusively; --peer compares the disks",
        )
