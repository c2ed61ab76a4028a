"""Tells somebody of an alarm or of a run's end: a command, a webhook, or both. Off unless the configuration names one.

A message is told in a thread of its own with a time limit. What could not be told is an event, never the run's problem, and is told again:
after the pauses of `AGAIN_S`, and a last time when the run ends. Secrets are taken out of every message, and the webhook's own URL is one.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from swerl.config import RunConfig
from swerl.config.schema import keys
from swerl.record.redact import redact
from swerl.watch.alarm import ORDER, Action

TELL_S = 20.0
AGAIN_S = (10.0, 60.0, 300.0)


@dataclass(frozen=True, slots=True)
class Notifier:
    """``secrets`` are replaced wherever they turn up. ``report(kind, **fields)`` records a message that could not be delivered."""

    command: tuple[str, ...] = ()
    webhook: str = ""
    least: Action = "note"
    secrets: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: RunConfig) -> Notifier:
        notify = config.notify
        command = tuple(shlex.split(notify.command or ""))
        return cls(command, config.secrets.webhook, notify.least, config.secrets.values())

    def tell(
        self, title: str, body: Mapping[str, Any], action: Action, report: Callable[..., None], ends: threading.Event | None = None
    ) -> threading.Thread | None:
        """Send one message, if it is grave enough and somebody wants it; returns the thread that does. It tries again until ``ends`` is
        set, or not at all without it."""
        if ORDER.index(action) < ORDER.index(self.least) or not (self.command or self.webhook):
            return None
        thread = threading.Thread(target=self._send, args=(title, body, report, ends), name="notify", daemon=True)
        thread.start()
        return thread

    def _send(self, title: str, body: Mapping[str, Any], report: Callable[..., None], ends: threading.Event | None) -> None:
        said = {"title": title, "text": title, "content": title, **body}  # the title again by the names that chat webhooks read
        message = self.redacted(orjson.dumps(said, default=str).decode())
        untold = {"command": self._run, "webhook": self._post}
        for pause_s in (0.0, *AGAIN_S):
            ended = ends is None or ends.wait(pause_s)
            for way, send in list(untold.items()):
                try:
                    send(message, self.redacted(title))
                    del untold[way]
                except (OSError, subprocess.SubprocessError, urllib.error.URLError, ValueError) as error:
                    report("notify.failed", way=way, error=self.redacted(str(error)))
            if ended or not untold:
                return

    def redacted(self, text: str) -> str:
        return redact(text, self.secrets)

    def _run(self, message: str, title: str) -> None:
        if not self.command:
            return
        hidden = {key.env for key in keys().values() if key.secret and key.env}
        env = {name: value for name, value in os.environ.items() if name not in hidden} | {"SWERL_TITLE": title}
        subprocess.run(self.command, input=message.encode(), env=env, timeout=TELL_S, check=True, capture_output=True)

    def _post(self, message: str, title: str) -> None:
        if self.webhook:
            if not self.webhook.startswith(("https://", "http://")):
                raise ValueError("notify.webhook is no http address")
            request = urllib.request.Request(self.webhook, message.encode(), {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=TELL_S):
                return
