"""A headless Chromium that is driven through a pipe; needs no driver and no library."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training import PATIENCE


def executable() -> str | None:
    """The browser of this machine, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


class Browser:
    """One page of a Chromium that runs in a process of its own.

    Attributes:
        console: what the page wrote to its console, and errors that it did not catch.
        requests: addresses that the page asked for.
    """

    def __init__(self, process: subprocess.Popen, sending: int, hearing: int) -> None:
        self.console: list[str] = []
        self.requests: list[str] = []
        self._events: list[dict] = []
        self._process = process
        self._sending, self._hearing = sending, hearing
        self._buffer = b""
        self._next = 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict:
        """One command of the DevTools protocol, and its answer."""
        self._next += 1
        message = {"id": self._next, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._sending, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._hear(PATIENCE)
            if answer.get("id") == self._next:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _hear(self, seconds: float) -> dict:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._hearing], [], [], seconds)
            if not ready:
                raise TimeoutError("the browser does not answer")
            part = os.read(self._hearing, 1 << 16)
            if not part:
                raise RuntimeError("the browser has ended")
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        self._note(message)
        return message

    def _note(self, message: dict) -> None:
        method, facts = message.get("method", ""), message.get("params", {})
        if method == "Runtime.consoleAPICalled":
            said = " ".join(str(a.get("value")) for a in facts["args"])
            self.console.append(f"{facts['type']}: {said}")
        elif method == "Runtime.exceptionThrown":
            self.console.append(str(facts["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.console.append(facts["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(facts["request"]["url"])
        if method:
            self._events.append(message)

    def open(self, page: Path, width: int = 1200, height: int = 900) -> None:
        """Shows a file, and waits until it is loaded."""
        self.size(width, height)
        self._events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        end = time.monotonic() + PATIENCE
        while not any(e["method"] == "Page.loadEventFired" for e in self._events):
            self._hear(end - time.monotonic())

    def size(self, width: int, height: int, phone: bool = False) -> None:
        """Gives the page another size."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=phone,
        )  # fmt: skip

    def prefer(self, scheme: str) -> None:
        """Sets what the system prefers: "light" or "dark"."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def run(self, code: str) -> Any:
        """The value of an expression in the page, as JSON."""
        answer = self.call(
            "Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """One event of the mouse: "Moved", "Pressed" or "Released"."""
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **more)

    def drag(self, x: float, to: float, y: float) -> None:
        """Press at x, move, release at `to`."""
        held = {"button": "left", "buttons": 1, "clickCount": 1}
        self.mouse("Moved", x, y)
        self.mouse("Pressed", x, y, **held)
        self.mouse("Moved", (x + to) / 2, y, **held)
        self.mouse("Moved", to, y, **held)
        self.mouse("Released", to, y, **held)

    def press(self, key: str) -> None:
        """One key, by its name in events."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def picture(self, **clip: float) -> bytes:
        """What is shown, as PNG; all of the page with a clip."""
        more: dict[str, Any] = {}
        if clip:
            more = {"clip": {"scale": 1, **clip}, "captureBeyondViewport": True}
        answer = self.call("Page.captureScreenshot", format="png", **more)
        return base64.b64decode(answer["data"])

    def pdf(self) -> bytes:
        """The page as it would be printed."""
        answer = self.call("Page.printToPDF", printBackground=True)
        return base64.b64decode(answer["data"])


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Starts a browser with a profile of its own; ends it with everything it began."""
    path = executable()
    assert path is not None
    theirs_in, sending = os.pipe()
    hearing, theirs_out = os.pipe()

    def give() -> None:
        # The browser reads commands from 3 and answers at 4.
        os.dup2(theirs_in, 90)
        os.dup2(theirs_out, 91)
        os.dup2(90, 3)
        os.dup2(91, 4)

    process = subprocess.Popen(
        [
            path, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update",
            "--disable-dev-shm-usage", "--remote-debugging-pipe",
            f"--user-data-dir={folder / 'profile'}",
        ],
        pass_fds=(3, 4),
        preexec_fn=give,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(folder)},
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Browser(process, sending, hearing)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait(10)
        os.close(sending)
        os.close(hearing)
