"""A crowd of simulated nodes: a ROUTER socket each, one thread for all, and logs that are a few batches in memory.

It speaks the protocol as far as a manager uses it: hello, list-logs, open-log, stat, subscribe with credit, more,
checkpoint, unsubscribe, ping. What a real daemon keeps (subscribers, positions) it keeps in dictionaries.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from jlogd.journal.batch import Batch
from jlogd.journal.types import LogStat, SubscriberStat
from jlogd.manager.config import ManagedNode
from jlogd.wire import messages
from jlogd.wire.messages import COST_MIN, FromDaemon, Limits

UUID = "0a09212f-6305-4d60-a93d-504b1ac4879a"


@dataclass
class _Subscription:
    identity: bytes
    id: int
    log: str
    name: str
    at: int  # index of the next batch
    credit: int


@dataclass
class SimulatedNode:
    """One node: its logs, who subscribes, and how far each subscriber is."""

    name: str
    logs: dict[str, list[Batch]]
    socket: zmq.Socket[bytes]
    positions: dict[tuple[str, str], int] = field(default_factory=dict)
    subscriptions: dict[tuple[bytes, int], _Subscription] = field(default_factory=dict)

    def next(self, log: str) -> int:
        return self.logs[log][-1].next if self.logs[log] else 1

    def stat(self, log: str) -> LogStat:
        following = self.next(log)
        subscribers = [
            SubscriberStat(name=name, next=at, lag_records=following - at, lag_bytes=0, lag_seconds=0.0)
            for (of, name), at in self.positions.items()
            if of == log
        ]
        return LogStat(
            name=log, target="", uuid=UUID, bytes=0, segments=1, first=1, next=following, epoch=1,
            durability="commit", compression="none", segment_bytes=1, created=0.0, oldest_time=0.0, newest_time=0.0,
            subscribers=subscribers,
        )  # fmt: skip


class Crowd:
    """Many simulated nodes; `start` it, and `close` it."""

    def __init__(self, directory: Path, names: Sequence[str], logs: dict[str, list[Batch]]) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.max_sockets = 4 * len(names) + 100
        self.nodes: list[SimulatedNode] = []
        self.managed: list[ManagedNode] = []
        self._poller = zmq.Poller()
        self._ending = threading.Event()
        for name in names:
            socket = self._context.socket(zmq.ROUTER)
            socket.sndhwm = socket.rcvhwm = 0
            socket.linger = 0
            address = f"ipc://{directory}/{name}"
            socket.bind(address)
            self._poller.register(socket, zmq.POLLIN)
            # The batches are shared: what a node sends is never changed.
            self.nodes.append(SimulatedNode(name, logs, socket))
            self.managed.append(ManagedNode(name=name, address=address))
        self._by_socket = {node.socket: node for node in self.nodes}
        self._thread = threading.Thread(target=self._run, name="crowd", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        self._thread.join()
        for node in self.nodes:
            node.socket.close()
        self._context.term()

    def _run(self) -> None:
        while not self._ending.is_set():
            for socket, _ in self._poller.poll(50):
                node = self._by_socket[socket]
                for _ in range(64):
                    try:
                        identity, control, *_rest = socket.recv_multipart(zmq.DONTWAIT)
                    except zmq.Again:
                        break
                    self._handle(node, identity, messages.decode_request(control))

    def _handle(self, node: SimulatedNode, identity: bytes, message: messages.FromClient) -> None:
        answer: FromDaemon | None = None
        match message:
            case messages.Hello():
                answer = messages.Welcome(message.id, 1, "simulated", Limits(), node.name)
            case messages.ListLogs():
                answer = messages.Logs(message.id, sorted(node.logs))
            case messages.OpenLog():
                answer = messages.Opened(message.id, message.log, UUID, "none", "commit")
            case messages.Stat():
                answer = messages.StatIs(message.id, node.stat(message.log))
            case messages.SubscriberAdd():
                node.positions.setdefault((message.log, message.name), 1)
                answer = messages.Done(message.id)
            case messages.Subscribe():
                self._subscribe(node, identity, message)
            case messages.Credit():
                found = node.subscriptions.get((identity, message.sub))
                if found is not None:
                    found.credit += message.bytes
                    self._deliver(node, found)
            case messages.Checkpoint():
                subscription = node.subscriptions[identity, message.sub]
                node.positions[subscription.log, subscription.name] = message.next
                answer = messages.Done(message.id)
            case messages.Unsubscribe():
                node.subscriptions.pop((identity, message.sub), None)
                answer = messages.Done(message.id)
            case messages.Ping():
                answer = messages.Pong(message.id)
        if answer is not None:
            node.socket.send_multipart([identity, messages.encode(answer)])

    def _subscribe(self, node: SimulatedNode, identity: bytes, message: messages.Subscribe) -> None:
        start = message.start if isinstance(message.start, int) else node.positions.get((message.log, message.name), 1)
        at = next((n for n, b in enumerate(node.logs[message.log]) if b.next > start), len(node.logs[message.log]))
        found = _Subscription(identity, message.id, message.log, message.name, at, message.credit)
        node.subscriptions[identity, message.id] = found
        answer = messages.Subscribed(message.id, start, message.credit)
        node.socket.send_multipart([identity, messages.encode(answer)])
        self._deliver(node, found)

    def _deliver(self, node: SimulatedNode, to: _Subscription) -> None:
        batches = node.logs[to.log]
        while to.credit > 0 and to.at < len(batches):
            batch = batches[to.at]
            to.at += 1
            frame = batch.to_wire()
            cost = max(len(frame), COST_MIN)
            to.credit -= cost
            answer = messages.Delivery(to.id, batch.next, cost)
            node.socket.send_multipart([to.identity, messages.encode(answer), frame])
