"""Headless Chromium by its own debugging protocol: open a page, press keys, evaluate, take pictures, collect what it complains of."""

from __future__ import annotations

import asyncio
import base64
import shutil
import tempfile
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome")


def binary() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Chrome:
    """``async with Chrome() as chrome``. One page; ``complaints`` are console errors, uncaught exceptions and failed requests."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._number = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    async def __aenter__(self) -> Chrome:
        path = binary()
        assert path is not None, "no chromium on PATH"
        self._home = tempfile.mkdtemp(prefix="swerl-chrome-")
        self._process = await asyncio.create_subprocess_exec(
            path,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--no-first-run",
            "--disable-background-networking",
            "--remote-debugging-port=0",
            f"--user-data-dir={self._home}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        told = Path(self._home) / "DevToolsActivePort"
        for _ in range(600):
            if told.exists() and told.read_text().count("\n") >= 1:
                break
            await asyncio.sleep(0.1)
        port = told.read_text().split("\n")[0]
        self._http = aiohttp.ClientSession()
        async with self._http.get(f"http://127.0.0.1:{port}/json/list") as answer:
            page = next(target for target in await answer.json() if target["type"] == "page")
        self._socket = await self._http.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)
        self._reader = asyncio.create_task(self._read())
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reader.cancel()
        await self._http.close()
        self._process.terminate()
        await self._process.wait()
        for _ in range(50):  # its helpers write on for a moment
            shutil.rmtree(self._home, ignore_errors=True)
            if not Path(self._home).exists():
                break
            await asyncio.sleep(0.1)

    async def call(self, method: str, **params: Any) -> Any:
        self._number += 1
        future = asyncio.get_running_loop().create_future()
        self._waiting[self._number] = future
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        return await asyncio.wait_for(future, 60)

    async def _read(self) -> None:
        async for message in self._socket:
            event = message.json()
            if "id" in event:
                future = self._waiting.pop(event["id"])
                if not future.done():
                    if "error" in event:
                        future.set_exception(RuntimeError(str(event["error"])))
                    else:
                        future.set_result(event["result"])
                continue
            method, params = event["method"], event["params"]
            if method == "Runtime.exceptionThrown":
                self.complaints.append(str(params["exceptionDetails"].get("exception", params["exceptionDetails"])))
            elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
                self.complaints.append(" ".join(str(argument.get("value")) for argument in params["args"]))
            elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
                self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            elif method == "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])

    async def look(self, width: int = 1360, height: int = 900, dark: bool = False, phone: bool = False) -> None:
        """The window's size and the system's colours."""
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)

    async def run(self, expression: str) -> Any:
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    async def until(self, expression: str, timeout_s: float = 20.0) -> None:
        """Wait until ``expression`` is true in the page."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while not await self.run(f"Boolean({expression})"):
            if asyncio.get_running_loop().time() > deadline:
                raise TimeoutError(
                    f"{expression} did not come true; the page says: {await self.run('document.body.innerText.slice(0, 600)')}"
                )
            await asyncio.sleep(0.1)

    async def settle(self) -> None:
        """Until nothing on the page is waiting for an answer and the network has been quiet for a moment."""
        await self.until("!document.querySelector('[aria-busy=true]') && document.querySelector('main')")
        quiet, seen = 0, len(self.requests)
        while quiet < 4:
            await asyncio.sleep(0.15)
            quiet, seen = (quiet + 1, seen) if len(self.requests) == seen else (0, len(self.requests))

    async def press(self, key: str) -> None:
        code = {"Tab": 9, "Enter": 13, "ArrowLeft": 37, "ArrowRight": 39}.get(key, ord(key[0].upper()))
        text = key if len(key) == 1 else {"Enter": "\r"}.get(key, "")
        await self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text, windowsVirtualKeyCode=code)
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    async def picture(self, path: Path, whole: bool = False) -> None:
        extra: dict[str, Any] = {}
        if whole:  # the page scrolls inside main; make the window as high as its content
            height = await self.run("Math.ceil(document.querySelector('main').scrollHeight + document.querySelector('main').offsetTop + 8)")
            width = await self.run("innerWidth")
            await self.call(
                "Emulation.setDeviceMetricsOverride", width=width, height=min(6000, int(height)), deviceScaleFactor=1, mobile=False
            )
            await asyncio.sleep(0.4)
        answer = await self.call("Page.captureScreenshot", format="png", **extra)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(answer["data"]))
