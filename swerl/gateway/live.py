"""Text of a turn while it is being sampled, for clients that asked for a stream and engines that stream.

Only text that is part of the answer whatever follows may leave early (`AnswerReader.certain`): nothing that could yet become a tool call, a
stop sequence or half a character. What is recorded is the sampled tokens as ever; this is a view of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from swerl.gateway.chat import ChatRequest

Certain = Callable[[Sequence[int], ChatRequest], str]


class LiveTokens:
    """Tokens of a turn as they come, fed by `sampling.sample`."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._readers: list[LiveText] = []

    def begin(self, kept: int) -> None:
        """An attempt begins; the tokens of earlier ones stand up to ``kept``."""
        if kept < len(self.ids):
            del self.ids[kept:]
            for reader in self._readers:
                reader.broken |= bool(reader.sent)

    def feed(self, token_ids: Sequence[int]) -> None:
        self.ids.extend(token_ids)
        for reader in self._readers:
            reader.more.set()

    def read_by(self, certain: Certain, request: ChatRequest) -> LiveText:
        self._readers.append(LiveText(self, certain, request))
        return self._readers[-1]


class LiveText:
    """One client's view. ``sent`` are the pieces it has been given; ``broken``: the turn begins otherwise, because an attempt failed and
    its tokens were sampled anew."""

    def __init__(self, tokens: LiveTokens, certain: Certain, request: ChatRequest):
        self._tokens, self._certain, self._request = tokens, certain, request
        self.more = asyncio.Event()
        self.sent: list[str] = []
        self.broken = False
        if tokens.ids:
            self.more.set()

    def take(self) -> str:
        """The text that may be sent now and has not been; empty for none."""
        self.more.clear()
        before = "".join(self.sent)
        text = self._certain(self._tokens.ids, self._request)
        if self.broken or not text.startswith(before) or len(text) == len(before):
            return ""
        self.sent.append(text[len(before) :])
        return self.sent[-1]
