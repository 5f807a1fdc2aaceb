"""A page in headless Chromium, driven over its debugging pipe: what it logs, what it asks for, how it looks."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_DEADLINE_S = 60.0


def find_chromium() -> str | None:
    """The browser's path, or None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """One tab. ``logged`` holds console messages, exceptions and log entries; ``requests`` every address asked for."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.logged: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        targets = self._call("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def show(self, path: Path, width: int = 1200, height: int = 900, dark: bool = False, scale: float = 1) -> None:
        """Open a file in a window of this size, with the system set to light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", features=scheme)
        self._loaded = False
        self._call("Page.navigate", url=path.resolve().as_uri())
        limit = time.monotonic() + _DEADLINE_S
        while not self._loaded:
            self._event(self._message(limit))

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def picture(self, path: Path) -> None:
        """What the window shows, as PNG."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        limit = time.monotonic() + _DEADLINE_S
        while True:
            found = self._message(limit)
            if found.get("id") == self._number:
                assert "error" not in found, (method, found["error"])
                result: dict[str, Any] = found["result"]
                return result
            self._event(found)

    def _event(self, message: dict[str, Any]) -> None:
        what = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Runtime.consoleAPICalled":
                self.logged.append(f"{what['type']}: {[a.get('value', a.get('description')) for a in what['args']]}")
            case "Runtime.exceptionThrown":
                self.logged.append(f"exception: {what['exceptionDetails']}")
            case "Log.entryAdded":
                self.logged.append(f"{what['entry']['level']}: {what['entry']['text']}")
            case "Network.requestWillBeSent":
                self.requests.append(what["request"]["url"])

    def _message(self, limit: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, limit - time.monotonic()))
            assert ready, f"Chromium said nothing within {_DEADLINE_S:g} s"
            part = os.read(self._read, 1 << 20)
            assert part, "Chromium ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A browser with an empty profile; ended with the block.

    Args:
        profile: Folder for it.
    """
    program = find_chromium()
    assert program is not None
    ours_read, theirs_write = os.pipe()
    theirs_read, ours_write = os.pipe()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    options += ["--disable-background-networking", f"--user-data-dir={profile}", "--remote-debugging-pipe"]
    # The browser reads its commands from descriptor 3 and answers on 4.
    wiring = ["bash", "-c", f'exec "$@" 3<&{theirs_read} 4>&{theirs_write}', "chromium"]
    with (profile.parent / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [*wiring, program, *options, "about:blank"],
            pass_fds=(theirs_read, theirs_write),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    os.close(theirs_read)
    os.close(theirs_write)
    try:
        yield Page(ours_read, ours_write)
    finally:
        os.close(ours_write)  # it ends when its commands do
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait(10)
        os.close(ours_read)
