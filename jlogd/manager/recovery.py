"""After a crash: every file that was open then is made what the ledger says, before anything is written.

    a file marked `open`     what is behind its recorded length is set aside, durably (aside.py)
                             cut back to its recorded length, synced
    all of them              the marks are taken away                      [one synced transaction]

From then on a file that is longer than recorded was changed by someone else, and is left as it is. What others wrote to
it between the crash and this moment cannot be told yet from what a round had written and not committed.

A file that is not at its path, or cannot be cut now, keeps its mark, and so do all when the ledger's disk is full:
files.py looks at them again before it writes to them.
"""

from __future__ import annotations

import logging

import msgspec

from jlogd.manager.aside import Asides
from jlogd.manager.ledger import Changes, FileState, Ledger, LedgerFailed
from jlogd.manager.store import Store

_log = logging.getLogger("jlogd.manager")


def recover(store: Store, ledger: Ledger, asides: Asides) -> int:
    """See the module's text; how many files were cut. While nobody writes. Raises `LedgerFailed`: it cannot be read."""
    was_open = [(path, state) for path, state in ledger.all_files() if state.open and state.status == "live"]
    changes, cut = Changes(), 0
    for path, state in was_open:
        try:
            if store.identity(path) != state.inode:
                continue
            cut += _cut_back(store, path, state, asides)
        except OSError as error:
            _log.warning("%s is not cut back yet, but before it is written to: %s", path, error)
            continue
        changes.files[path] = msgspec.structs.replace(state, open=False)
    changes.asides.update(asides.pending)
    try:
        ledger.commit(changes)
        asides.take_pending()
    except LedgerFailed as error:  # a full disk is no reason not to start: the rounds say so, and try again
        _log.warning("files that were cut back are still marked as open: %s", error)
    return cut


def _cut_back(store: Store, path: str, state: FileState, asides: Asides) -> bool:
    """Durably; whether there was anything to cut."""
    file = store.open(path)
    try:
        size = file.size()
        if size > state.length:
            asides.keep(path, file, state)
            _log.info("%s: cut back from %d to %d bytes; what follows is pulled again", path, size, state.length)
            file.cut(state.length)
        else:
            asides.find(path, state)
        # Even one that seems right: it may have been cut by a process that died before it synced that.
        file.sync()
        return size > state.length
    finally:
        file.close()
