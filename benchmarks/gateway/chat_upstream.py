"""A scripted chat server for proxies that forward chat requests: it answers one tool call (``python chat_upstream.py PORT``)."""

from __future__ import annotations

import sys

import orjson
import uvloop
from aiohttp import web
from bodies import exchange

MESSAGE = exchange("call_upstream", "")[0]
USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


async def answer(request: web.Request) -> web.Response:
    body = orjson.loads(await request.read())
    choice = {"index": 0, "message": MESSAGE, "finish_reason": "tool_calls"}
    made = {"id": "c", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice], "usage": USAGE}
    return web.Response(body=orjson.dumps(made), content_type="application/json")


if __name__ == "__main__":
    app = web.Application(client_max_size=1 << 28)
    app.router.add_post("/v1/chat/completions", answer)
    uvloop.install()
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
