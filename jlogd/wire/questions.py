"""The requests of one connection that wait for an answer, from being asked to being answered, late or lost.

Used by the connection's thread, except `result`, which the thread that asks waits in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future

from jlogd.errors import JlogError, RemoteError
from jlogd.wire.messages import AnyRequest, FromDaemon


class Question:
    """A request that waits for its answer."""

    __slots__ = ("_answer", "deadline", "message")

    def __init__(self, message: AnyRequest, timeout: float) -> None:
        self.message = message
        self.deadline = time.monotonic() + timeout
        self._answer: Future[FromDaemon] = Future()

    def answer(self, message: FromDaemon) -> None:
        """Here it is."""
        self._answer.set_result(message)

    def fail(self, error: JlogError) -> None:
        """There will be none."""
        self._answer.set_exception(error)

    def result(self, alive: Callable[[], bool], pause: float) -> FromDaemon | None:
        """Wait for the answer; None when none came and nobody is left to give one. Raises what it failed with."""
        while True:
            try:
                return self._answer.result(pause)
            except TimeoutError:
                if not alive() and not self._answer.done():
                    return None


class Questions:
    """Those that wait for a session, and those that were asked, by id."""

    def __init__(self) -> None:
        self._waiting: list[Question] = []
        self._asked: dict[int, Question] = {}

    @property
    def waiting(self) -> bool:
        """Whether a session is wanted."""
        return bool(self._waiting)

    def wait(self, question: Question) -> None:
        """Keep it until there is a session."""
        self._waiting.append(question)

    def take_waiting(self) -> list[Question]:
        """Those that can be asked now."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def ask(self, question: Question, id_: int) -> None:
        """It was asked under this id."""
        question.message.id = id_
        self._asked[id_] = question

    def answered(self, id_: int, message: FromDaemon) -> bool:
        """Give the answer to whom it is for; whether there was someone."""
        question = self._asked.pop(id_, None)
        if question is not None:
            question.answer(message)
        return question is not None

    def lost(self, why: str, hopeless: RemoteError | None) -> None:
        """The connection is lost: what may be asked again waits, unless it is `hopeless`."""
        asked, self._asked = list(self._asked.values()), {}
        for question in asked:
            if question.message.again:
                self._waiting.append(question)
            else:
                question.fail(RemoteError(f"{why}; whether it was done is not known"))
        if hopeless is not None:
            for question in self.take_waiting():
                question.fail(hopeless)

    def expire(self, now: float, why: str) -> None:
        """Fail those whose time is over."""
        for question in [question for question in self._waiting if now > question.deadline]:
            self._waiting.remove(question)
            question.fail(RemoteError(why))
        for id_, question in [(id_, question) for id_, question in self._asked.items() if now > question.deadline]:
            del self._asked[id_]
            question.fail(RemoteError(why))

    def fail_all(self, error: JlogError) -> None:
        """There will be no answers any more."""
        for question in (*self.take_waiting(), *self._asked.values()):
            question.fail(error)
        self._asked.clear()
