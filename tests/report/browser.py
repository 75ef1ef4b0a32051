"""Drives a headless Chromium over the pipe of its DevTools protocol, without any package."""

import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(EXECUTABLE is None, reason="needs Chromium on the path")


def _high(descriptor: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10)  # out of the way of 3 and 4, which Chromium reads and writes


class Browser:
    """One tab; ``events`` are what it told, such as exceptions and messages of the console."""

    def __init__(self, profile: Path) -> None:
        (read, answer), (order, write) = os.pipe(), os.pipe()
        theirs = _high(order), _high(answer)
        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
        script = f'exec "$@" 3<&{theirs[0]} 4>&{theirs[1]}'
        command = ["bash", "-c", script, "-", EXECUTABLE, *words, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(command, pass_fds=theirs, stderr=subprocess.DEVNULL)
        for descriptor in (answer, order, *theirs):
            os.close(descriptor)
        self.read, self.write = os.fdopen(read, "rb"), os.fdopen(write, "wb")
        self.pending, self.count, self.session = b"", 0, {}
        self.events: list[dict] = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.session = {"sessionId": session}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **params):
        self.count += 1
        message = {"id": self.count, "method": method, "params": params, **self.session}
        self.write.write(json.dumps(message).encode() + b"\0")
        self.write.flush()
        while (found := self._next()).get("id") != self.count:
            self.events.append(found)
        assert "error" not in found, found
        return found["result"]

    def _next(self) -> dict:
        while b"\0" not in self.pending:
            received = os.read(self.read.fileno(), 1 << 20)
            assert received, "the browser has ended"
            self.pending += received
        first, _, self.pending = self.pending.partition(b"\0")
        return json.loads(first)

    def open(self, page: Path) -> None:
        self("Page.navigate", url=page.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def value(self, script: str):
        """What an expression gives on the page."""
        found = self("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def click(self, selector: str) -> None:
        """Press and release the button of the mouse in the middle of what a selector finds."""
        quoted = json.dumps(selector)
        self.value(f"document.querySelector({quoted}).scrollIntoView({{block: 'center'}})")
        box = self.value(f"document.querySelector({quoted}).getBoundingClientRect().toJSON()")
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased"):
            self("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            self("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def complaints(self) -> list[dict]:
        """What went wrong on the page, and what it asked a network for."""
        wrong = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        asked = [it for it in self.events if it.get("method") == "Network.requestWillBeSent"]
        elsewhere = [it for it in asked if not it["params"]["request"]["url"].startswith(("data:", "file:", "about:"))]
        return [it for it in self.events if it.get("method") in wrong] + elsewhere

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.read.close()
        self.write.close()
