"""A real browser for tests: Debian's chromium without a window, told what to do over a pipe (DevTools protocol)."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
# Chromium starts slowly on a busy machine.
SECONDS_MAX = 60


class Browser:
    """One page of a browser."""

    def __init__(self, program: str, profile: Path) -> None:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()

        def at_three_and_four() -> None:
            os.dup2(to_browser, 103)
            os.dup2(from_browser, 104)
            os.dup2(103, 3)
            os.dup2(104, 4)

        words = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"]
        words += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
        words += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run", "about:blank"]
        self._process = subprocess.Popen(
            [program, *words],
            preexec_fn=at_three_and_four,
            close_fds=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer = b""
        self._number = 0
        self._session = ""
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM", "Network"):
            self.ask(f"{domain}.enable")

    def close(self) -> None:
        """End it and its children."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait(SECONDS_MAX)
        os.close(self._in)
        os.close(self._out)

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command; its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                assert "error" not in found, (method, found["error"])
                result: dict[str, Any] = found["result"]
                return result
            self.events.append(found)

    def open(self, url: str) -> None:
        """Go to an address, and wait until it is loaded."""
        self.events.clear()
        self.ask("Page.navigate", url=url)
        self.wait_loaded()

    def wait_loaded(self) -> None:
        """Until the page has said that it is loaded."""
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def look(self, width: int = 1280, height: int = 900, dark: bool = False, scripts: bool = False) -> None:
        """The window's size, the reader's wish for dark pages, and whether scripts run."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Emulation.setScriptExecutionDisabled", value=not scripts)

    def screenshot(self, path: Path) -> Path:
        """The window as PNG."""
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))
        return path

    def find(self, selector: str) -> list[int]:
        """The nodes that a selector of CSS matches."""
        root = self.ask("DOM.getDocument", depth=0)["root"]["nodeId"]
        nodes: list[int] = self.ask("DOM.querySelectorAll", nodeId=root, selector=selector)["nodeIds"]
        return nodes

    def html(self, selector: str) -> str:
        """The first node's HTML."""
        text: str = self.ask("DOM.getOuterHTML", nodeId=self.find(selector)[0])["outerHTML"]
        return text

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the first node, in the window."""
        return self._box(self.find(selector)[0])

    def _box(self, node: int) -> tuple[float, float, float, float]:
        quad = self.ask("DOM.getContentQuads", nodeId=node)["quads"][0]
        return min(quad[0::2]), min(quad[1::2]), max(quad[0::2]), max(quad[1::2])

    def click(self, selector: str) -> None:
        """Click on the first node, and wait for the page it leads to."""
        node = self.find(selector)[0]
        self.ask("DOM.scrollIntoViewIfNeeded", nodeId=node)
        left, top, right, bottom = self._box(node)
        self.events.clear()
        for kind in ("mousePressed", "mouseReleased"):
            place = {"x": (left + right) / 2, "y": (top + bottom) / 2}
            self.ask("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)
        self.wait_loaded()

    def write(self, selector: str, text: str) -> None:
        """Replace what is in a field."""
        self.ask("DOM.focus", nodeId=self.find(selector)[0])
        self.ask("Input.dispatchKeyEvent", type="keyDown", key="a", commands=["selectAll"], modifiers=2)
        self.ask("Input.insertText", text=text)

    def write_and_send(self, selector: str, text: str) -> None:
        """Replace what is in a field, and press Enter."""
        self.write(selector, text)
        self.events.clear()
        enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
        self.ask("Input.dispatchKeyEvent", type="keyDown", **enter)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **enter)
        self.wait_loaded()

    def accessible(self) -> list[tuple[str, str]]:
        """(role, name) of everything that assistive technology is told of."""
        nodes = self.ask("Accessibility.getFullAXTree")["nodes"]
        return [
            (node.get("role", {}).get("value", ""), str(node.get("name", {}).get("value", "")))
            for node in nodes
            if not node.get("ignored")
        ]

    def complaints(self) -> list[str]:
        """What the browser had to say about the page: errors, broken policies, failed requests."""
        found = [e["params"]["entry"] for e in self.events if e.get("method") == "Log.entryAdded"]
        return [f"{entry['level']}: {entry['text']}" for entry in found]

    def addresses(self) -> set[str]:
        """Everything the page loaded or tried to."""
        return {e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"}

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS_MAX
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the browser says nothing"
            data = os.read(self._in, 1 << 20)
            assert data, "the browser went away"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser, ended when the block is left."""
    assert PROGRAM
    started = Browser(PROGRAM, profile)
    try:
        yield started
    finally:
        started.close()
