"""What the server knows of one client, from its hello to its silence, and of what that client subscribed to.

A session belongs to the server's thread. Other threads hold on to it only to say whom an answer is for.

A subscription is worked on by others: `delivery.py` reads for it, and says which lock guards what; `desk.py` makes it,
guards the checkpoints that wait, and gives it up.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from jlogd.daemon.grants import Party
from jlogd.daemon.served import Served
from jlogd.journal.batch import Batch, Gap
from jlogd.journal.cursor import Cursor
from jlogd.journal.journal import Journal
from jlogd.journal.subscribers import Hold
from jlogd.wire import messages

# What a subscription is doing; see `delivery.py`.
State = Literal["ready", "running", "broke", "waiting", "closed"]


@dataclass(eq=False, slots=True)
class Session:
    """One client. `under_way` counts bytes (see `COST_MIN`) of batches that are not answered yet.

    `user`: what the gate said of its connection; `peer`, `descriptor`: its address and socket; `party`: who that is and
    what it may do, looked up with each message.
    `owed`: a batch of this log and producer was refused for now, and no later one is taken before it: where it starts.
    """

    identity: bytes
    client: str
    note: str
    user: str
    peer: str
    party: Party
    descriptor: int
    alive: bool = True
    since: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    under_way: int = 0
    requests: int = 0
    subscriptions: dict[int, Subscription] = field(default_factory=dict)
    owed: dict[tuple[str, int], int] = field(default_factory=dict)


class Subscription:
    """One subscription of one client. `state`, `credit`, `follow`, `look` and `closing` are guarded by the feeder."""

    def __init__(
        self, session: Session, request: messages.Subscribe, served: Served, hold: Hold | None, cursor: Cursor
    ) -> None:
        """`cursor` is that of `hold`, if there is one."""
        self.session = session
        self.id = request.id
        self.log = request.log
        self.name = request.name
        self.journal: Journal = served.journal
        self.hold = hold
        self.cursor = cursor
        self.reading = threading.Lock()
        self.follow = request.follow
        self.window = self.credit = request.credit
        self.look = request.id  # the request that the next end answers; 0 when none is owed
        self.state: State = "waiting"
        self.again = False
        self.closing = False
        self.given_up = False
        self.released = threading.Event()  # given up, and its name is free for others
        # Checkpoints asked for, as (request, sequence), and whether someone is at it.
        self.pending: deque[tuple[int, int]] = deque()
        self.checkpointing = False
        self.unsubscribe = 0  # the request to answer once it is released

    def read(self, max_bytes: int) -> list[Batch | Gap]:
        """What comes next. Called with `reading` held."""
        return (self.cursor if self.hold is None else self.hold).read(max_bytes)

    def release(self) -> None:
        """Let go of the log and the name."""
        with self.reading:
            if not self.given_up:
                self.given_up = True
                if self.hold is not None:
                    self.hold.release()
                else:
                    self.cursor.close()
