"""The shell: queries line by line, with history, completion, help, and the answer sent where it is wanted.

    show count ... | csv          in another format
    show count ... > FILE         to a file, in the format of its suffix, or the one named before
    drill N, up                   the query for row N of the last answer, one level down; and back

Everything but reading the line is in `handle`, so that it can be tested without a terminal.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import click
from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import AnyFormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.output import Output

from cidr.ask import Asking, Reply, Rows
from cidr.formats import FORMATS, TEXT_FORMATS, render, status
from cidr.formats.cells import cidrs
from cidr.language.complete import complete
from cidr.language.drill import down
from cidr.language.errors import QueryError, nearest
from cidr.language.manual import TOPICS
from jlogd.cli.errors import explain
from jlogd.errors import JlogError, UsageError

PROMPT = "cidr> "
WORDS = ("help", "exit", "quit", "drill", "up")
# Blocks of the last answer that are offered for completion.
BLOCKS_OFFERED_MAX = 50
_TARGET = re.compile(r"\s(?:\|\s*(?P<form>\w+)\s*)?(?:>\s*(?P<file>\"[^\"]+\"|\S+)\s*)?\Z")
_SUFFIXES = {".csv": "csv", ".json": "json", ".ndjson": "ndjson", ".parquet": "parquet", ".pq": "parquet"}

HELP = """\
Ask:      show count for BLOCK in SERIES [since DATE] [cidrsize N] [order by count] [limit N] ...
          show heavy ...   show top movers ...   explain show ...   show available   cache details
Answers:  ... | csv   (or legacy, json, ndjson, table)      ... > FILE   (.csv, .json, .ndjson, .parquet)
Also:     drill N (row N one level down), up, help WORD, exit. Tab completes, the arrows recall.
Help on:  {topics}
"""


class Shell:
    """A session with something that answers queries."""

    def __init__(
        self, asking: Asking, form: str = "table", say: Callable[[str], None] | None = None, paged: bool = True
    ) -> None:
        self._asking = asking
        self._form = form
        self._say = say or (lambda text: click.echo(text))
        self._paged = paged and say is None
        self._last: Rows | None = None
        self._above: list[str] = []
        self._status = ""

    # ---- reading lines ----------------------------------------------------------------------------------------------

    def run(self, reader: Input | None = None, screen: Output | None = None) -> int:
        """Until `exit` or the end of input."""
        session: PromptSession[str] = PromptSession(
            history=_history(),
            auto_suggest=AutoSuggestFromHistory(),
            completer=_Completer(self),
            complete_while_typing=False,
            bottom_toolbar=self._toolbar,
            input=reader,
            output=screen,
        )
        while True:
            try:
                line = session.prompt(PROMPT)
            except KeyboardInterrupt:
                continue
            except EOFError:
                return 0
            if not self.handle(line):
                return 0

    def handle(self, line: str) -> bool:
        """Do what a line says; whether to go on."""
        words = line.split()
        if not words:
            return True
        if words[0].lower() in ("exit", "quit"):
            return False
        try:
            self._do(words, line)
        except QueryError as error:
            # The query is on the screen already, after the prompt.
            first, *rest = error.caret(PROMPT).splitlines()
            self._say("\n".join(rest if error.text == line and "\n" not in line else [first, *rest]))
        except (JlogError, OSError) as error:
            self._say(f"error: {explain(error)[1]}")
        except KeyboardInterrupt:
            self._say("interrupted")
        return True

    def _do(self, words: list[str], line: str) -> None:
        match words[0].lower():
            case "help" | "?":
                self._say(help_text(" ".join(words[1:])))
            case "drill":
                self._drill(words[1:])
            case "up":
                self._up()
            case _:
                query, form, file = split_target(line, self._form)
                self._ask(query, form, file)

    def _ask(self, query: str, form: str, file: Path | None) -> None:
        reply = self._asking.ask(query)
        self._last = reply if isinstance(reply, Rows) else self._last
        self._status = status(reply)
        if file is not None:
            data = render(reply, form)
            file.write_bytes(data)
            self._say(f"-- {len(data):,} bytes in {file}; {self._status}")
            return
        self._show(reply, form)

    def _show(self, reply: Reply, form: str) -> None:
        size = shutil.get_terminal_size()
        text = render(reply, form, size.columns).decode(errors="replace").rstrip("\n")
        if form != "table":
            text = f"{text}\n-- {self._status}".lstrip("\n")
        if self._paged and text.count("\n") >= size.lines:
            click.echo_via_pager(text + "\n")
        else:
            self._say(text)

    # ---- up and down ------------------------------------------------------------------------------------------------

    def _drill(self, words: list[str]) -> None:
        if self._last is None or not len(self._last.answer):
            raise UsageError("there are no rows yet: ask something first")
        rows = len(self._last.answer)
        if len(words) != 1 or not re.fullmatch(r"[0-9]{1,9}", words[0]) or not 1 <= int(words[0]) <= rows:
            raise UsageError(f"drill N takes the number of a row, 1 to {rows}")
        block = self._last.answer.block(int(words[0]) - 1)
        below = down(self._last.show, block)
        if below is None:
            raise UsageError(f"{block} is one address: there is nothing below it")
        self._above.append(str(self._last.show))
        self._again(str(below))

    def _up(self) -> None:
        if not self._above:
            raise UsageError("there is nothing above: `up` goes back after `drill`")
        self._again(self._above.pop())

    def _again(self, query: str) -> None:
        self._say(PROMPT + query)
        self._ask(query, self._form, None)

    # ---- completion -------------------------------------------------------------------------------------------------

    def completions(self, text: str) -> list[tuple[str, int]]:
        """What the end of `text` may become: (word, characters it replaces)."""
        first, _, rest = text.lstrip().partition(" ")
        if first.lower() == "help" and rest == text.lstrip()[5:] and " " in text.lstrip():
            return [(topic, len(rest)) for topic in TOPICS if topic.startswith(rest.lower())]
        found: list[tuple[str, int]] = []
        if piped := re.search(r"\|\s*(\w*)\Z", text):
            return [(form, len(piped[1])) for form in TEXT_FORMATS if form.startswith(piped[1])]
        if not rest and " " not in text.lstrip():
            found = [(word, len(first)) for word in WORDS if word.startswith(first.lower())]
        names: list[str] = []
        with suppress(JlogError, OSError):
            names = self._asking.series_names()
        return found + [(one.text, one.replaced) for one in complete(text, names, self._blocks())]

    def _blocks(self) -> list[str]:
        return [] if self._last is None else cidrs(self._last.answer)[:BLOCKS_OFFERED_MAX]

    def _toolbar(self) -> AnyFormattedText:
        return f" {self._asking.describe()}   {self._status}"


class _Completer(Completer):
    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        for word, replaced in self._shell.completions(document.text_before_cursor):
            yield Completion(word, -replaced)


def split_target(line: str, form: str) -> tuple[str, str, Path | None]:
    """Query, format and file of a line. Raises `UsageError`."""
    found = _TARGET.search(line)
    if found is None or not (found["form"] or found["file"]):
        return line, form, None
    query = line[: found.start()]
    file = Path(found["file"].strip('"')).expanduser() if found["file"] else None
    named = found["form"]
    if named is not None and named not in FORMATS:
        meant = nearest(named, FORMATS)
        raise UsageError(
            f"there is no format {named!r}; " + (f"did you mean {meant}?" if meant else ", ".join(FORMATS))
        )
    chosen = named or (_SUFFIXES.get(file.suffix.lower(), form) if file else form)
    if chosen == "parquet" and file is None:
        raise UsageError("Parquet is no text: send it to a file, > FILE.parquet")
    return query, chosen, file


def help_text(word: str) -> str:
    """Help in general, or on a topic."""
    if not word:
        return HELP.format(topics=", ".join(TOPICS)).rstrip("\n")
    found = word.lower() if word.lower() in TOPICS else nearest(word, TOPICS)
    if not found:
        raise UsageError(f"there is no help on {word!r}; there is on {', '.join(TOPICS)}")
    topic = TOPICS[found]
    return f"{topic.form}\n  {topic.text}\n  Example: {topic.example}"


def _history() -> History:
    """In the user's state directory, for the user alone; only in memory where that cannot be written."""
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    path = base / "cidr" / "history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
    except (OSError, RuntimeError):
        return InMemoryHistory()
    return FileHistory(str(path))
