"""The server as a client meets it, a hostile one too."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import orjson
import pytest
from yarl import URL

from swerl.dashboard.catalogue import Catalogue
from swerl.dashboard.index import wait_until_read
from swerl.dashboard.server import DashboardServer
from swerl.errors import SwerlError
from swerl.record.listening import Address
from tests.dashboard.dashkit import serving, with_server
from tests.record.secretkit import CASES

VIEWS = ("overview", "config", "names", "validations", "rates", "tasks", "steps", "trials", "tail", "engine", "cost", "logs")


def test_every_view_answers_and_carries_the_headers(run_dir: Path) -> None:
    async def ask(url: str, http: aiohttp.ClientSession) -> None:
        for view in VIEWS:
            async with http.get(f"{url}/api/run/made/{view}") as answer:
                assert answer.status == 200 and await answer.json() is not None, view
                assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
        async with http.get(f"{url}/") as answer:
            page = await answer.text()
        assert answer.status == 200 and "app.js" in page and "http" not in page.replace("http-equiv", "")
        async with http.get(f"{url}/api/run/made/series", params={"names": "actor/entropy,none"}) as answer:
            series = await answer.json()
        assert len(series["actor/entropy"]) == 12 and series["none"] == []
        async with http.get(f"{url}/api/run/made/trials", params={"fate": "killed"}) as answer:
            killed = await answer.json()
        assert all(trial["outcome"] in ("tail_killed", "cancelled") for trial in killed["trials"])
        async with http.get(f"{url}/metrics") as answer:
            text = await answer.text()
        assert 'swerl_metric{run="made",name="actor/entropy"}' in text and 'swerl_trials{run="made"' in text
        assert answer.content_type == "text/plain"

    with_server(run_dir.parent, ask)


def test_no_word_of_a_client_reaches_the_disk(run_dir: Path) -> None:
    secret = run_dir.parent.parent / "secret.txt"
    secret.write_text("top secret")
    (run_dir / "logs" / "link.log").symlink_to(secret)
    words = ["..", "../..", "../../secret.txt", "/etc/passwd", "made/../../secret.txt", "....//", "secret.txt\0", "link"]

    async def ask(url: str, http: aiohttp.ClientSession) -> None:
        tried = [
            f"{url}/{word}"
            for word in ("../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt", "%2fetc%2fpasswd", "app.js/../../secret.txt")
        ]
        tried += [f"{url}/api/run/{word}/overview" for word in ("..", "%2e%2e", "..%2f..", "made%2f..%2f..", "%00")]
        for address in tried:
            async with http.get(URL(address, encoded=True)) as answer:
                assert answer.status in (400, 403, 404), address
                assert b"secret" not in await answer.read() and answer.status != 500
        for word in words:
            for view, name in (("log", "name"), ("trial", "key"), ("tokens", "session")):
                async with http.get(f"{url}/api/run/made/{view}", params={name: word, "turn": "1"}) as answer:
                    assert answer.status == 404, (view, word)
            async with http.get(f"{url}/api/compare", params={"runs": word, "names": "x"}) as answer:
                assert answer.status == 404

    with_server(run_dir.parent, ask)


@pytest.mark.parametrize(
    "query",
    [
        "trials?limit=x",
        "trials?split=other",
        "trials?order=;DROP",
        "timeline?step=-1",
        "timeline",
        "trials?step=9999999999999999999",
        "log",
        "trial",
    ],
)
def test_parameters_that_cannot_be_are_refused(run_dir: Path, query: str) -> None:
    async def ask(url: str, http: aiohttp.ClientSession) -> None:
        async with http.get(f"{url}/api/run/made/{query}") as answer:
            assert answer.status == 400 and "error" in await answer.json()

    with_server(run_dir.parent, ask)


def test_only_reading_from_its_own_name(run_dir: Path) -> None:
    async def ask(url: str, http: aiohttp.ClientSession) -> None:
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
            async with http.request(method, f"{url}/api/runs") as answer:
                assert answer.status == 405 and "Access-Control-Allow-Origin" not in answer.headers
        async with http.get(f"{url}/api/runs", headers={"Host": "evil.example:8090"}) as answer:
            assert answer.status == 403

    with_server(run_dir.parent, ask)


def test_another_address_needs_the_token(run_dir: Path) -> None:
    async def ask(url: str, http: aiohttp.ClientSession) -> None:
        url = url.replace("0.0.0.0", "127.0.0.1")
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "swerl_token=wrong"}):
            for path in ("/", "/app.js", "/api/runs", "/metrics"):
                async with http.get(url + path, headers=headers) as answer:
                    assert answer.status == 401, path
        async with http.get(f"{url}/api/runs", headers={"Authorization": "Bearer right-token"}) as answer:
            assert answer.status == 200
        async with http.get(f"{url}/?token=right-token", allow_redirects=False) as answer:
            assert answer.status == 303 and "HttpOnly" in answer.headers["Set-Cookie"] and "SameSite=Strict" in answer.headers["Set-Cookie"]
            cookie = answer.headers["Set-Cookie"].partition(";")[0]
        async with http.get(f"{url}/api/runs", headers={"Cookie": cookie}) as answer:
            assert answer.status == 200

    with_server(run_dir.parent, ask, host="0.0.0.0", token="right-token")
    assert DashboardServer(Catalogue(run_dir.parent), Address("0.0.0.0", 0)).token is not None


def test_a_second_server_on_the_port_is_told(run_dir: Path) -> None:
    async def ask(url: str, http: aiohttp.ClientSession) -> None:
        port = int(url.rpartition(":")[2])
        second = DashboardServer(Catalogue(run_dir.parent), Address("127.0.0.1", port))
        with pytest.raises(SwerlError) as failure:
            await second.start()
        assert failure.value.problems[0].id == "SWERL-R301" and str(port) in failure.value.problems[0].message
        third = DashboardServer(Catalogue(run_dir.parent), Address("127.0.0.1", port, search=True))
        await third.start()
        assert third.url != url + "/"
        await third.stop()

    with_server(run_dir.parent, ask)


def test_what_is_written_reaches_a_listening_page(run_dir: Path) -> None:
    async def ask(url: str, http: aiohttp.ClientSession) -> None:
        async with http.get(f"{url}/api/live", params={"run": "made"}) as stream:
            states = []
            written = False
            async for line in stream.content:
                if not line.startswith(b"data: "):
                    continue
                states.append(orjson.loads(line[6:]))
                if states[-1]["revision"] >= 1 and not written:
                    written, before, began = True, states[-1]["revision"], time.monotonic()
                    row = {"step": 13, "lineage": "L1", "data": {"actor/entropy": 0.5}}
                    with (run_dir / "metrics.jsonl").open("ab") as file:
                        file.write(orjson.dumps(row) + b"\n")
                elif written and states[-1]["revision"] > before:
                    break
        assert time.monotonic() - began < 20  # two seconds on a quiet machine; the benchmark measures it
        async with http.get(f"{url}/api/run/made/series", params={"names": "actor/entropy"}) as answer:
            assert (await answer.json())["actor/entropy"][-1] == [13, 0.5]
        async with http.get(f"{url}/api/live", params={"run": "none"}) as answer:
            assert answer.status == 404

    with_server(run_dir.parent, ask)


def test_an_index_that_has_no_room_says_so_and_goes_on_when_it_has(run_dir: Path) -> None:
    async def go() -> None:
        async with serving(run_dir.parent) as (server, http):
            index = await asyncio.to_thread(server._catalogue.index, "made")
            await asyncio.to_thread(wait_until_read, index)
            async with http.get(f"{server.url}api/live", params={"run": "made"}) as stream:

                async def until(true: Callable[[dict], bool]) -> dict:
                    async for line in stream.content:
                        if line.startswith(b"data: ") and true(state := orjson.loads(line[6:])):
                            return state
                    raise AssertionError("the stream ended")

                before = await until(lambda state: state["behind"] == 0)
                assert before["trouble"] == ""
                index._db.execute("PRAGMA max_page_count = 1")  # as many pages as there are: the same error as a full disk's
                event = {"time": 1.0, "source": "trainer", "kind": "made.mark", "words": "x" * 15_000}
                with (run_dir / "events" / "trainer.jsonl").open("ab") as file:
                    file.write((orjson.dumps(event) + b"\n") * 20)
                assert "full" in (await until(lambda state: state["trouble"]))["trouble"]
                index._db.execute("PRAGMA max_page_count = 1000000")
                after = await until(lambda state: not state["trouble"])
                assert after["revision"] == before["revision"] + 1
            with index.reading() as db:
                assert db.execute("SELECT count(*) FROM events WHERE kind = 'made.mark'").fetchone()[0] == 20

    asyncio.run(go())


def test_hostile_files_of_a_trial_are_text(run_dir: Path) -> None:
    """What a sandbox wrote comes as JSON text, cut to a size; links out of it are not followed, and other kinds of files not opened."""
    line = next(line for line in (run_dir / "trials" / "journal.jsonl").read_bytes().splitlines() if b'"settled"' in line)
    key = orjson.loads(line)["result"]["trial_name"]
    config = orjson.loads((run_dir / "resolved.json").read_bytes())
    config["config"]["experiment"]["trials_dir"] = str(run_dir / "trials" / "made")
    (run_dir / "resolved.json").write_bytes(orjson.dumps(config))
    trial = run_dir / "trials" / "made" / key
    for part in ("agent", "verifier", "answer"):
        (trial / part).mkdir(parents=True)
    script = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    step = {
        "source": "agent",
        "message": script * 2000,
        "tool_calls": [{"tool_call_id": "1", "function_name": script, "arguments": {"c": script}}],
    }
    (trial / "agent" / "trajectory.json").write_bytes(orjson.dumps({"steps": [step]}))
    (run_dir.parent / "outside").write_text("outside")
    (trial / "verifier" / "test-stdout.txt").symlink_to(run_dir.parent / "outside")
    (trial / "answer" / "link").symlink_to(run_dir.parent)
    (trial / "answer" / "kept.py").write_text("x = 1\n")
    os.mkfifo(trial / "trial.log")

    async def ask(url: str, http: aiohttp.ClientSession) -> None:
        async with asyncio.timeout(30), http.get(f"{url}/api/run/made/trial", params={"key": key}) as answer:
            assert answer.status == 200 and answer.content_type == "application/json"
            found = await answer.json()
        [step] = found["transcript"]
        assert step["text"].startswith(script) and len(step["text"]) < 21_000 and step["calls"][0]["name"] == script
        assert found["files"] == []
        assert [change["name"] for change in found["changes"]] == ["kept.py"]
        (trial / "agent" / "trajectory.json").write_text("[" * 100_000)
        async with http.get(f"{url}/api/run/made/trial", params={"key": key}) as answer:
            assert answer.status == 200 and (await answer.json())["transcript"] is None

    with_server(run_dir.parent, ask)


def test_logs_are_paged_searched_and_redacted(run_dir: Path) -> None:
    log = run_dir / "logs" / "gateway.log"
    lines = [f"line {i} \x1b[31mred\x1b[0m" for i in range(20_000)]
    lines[5] = "Authorization: Bearer abcdefghijklmnop"
    log.write_text("\n".join(lines) + "\n")

    async def ask(url: str, http: aiohttp.ClientSession) -> None:
        async def page(**params: int | str) -> dict:
            async with http.get(f"{url}/api/run/made/log", params={"name": "gateway", **params}) as answer:
                return await answer.json()

        end = await page()
        assert end["lines"][-1] == "line 19999 red" and end["end"] == end["size"]
        found, start = list(end["lines"]), end["start"]
        while start > 0:
            before = await page(end=start)
            found, start = before["lines"] + found, before["start"]
        assert len(found) == 20_000 and "abcdefgh" not in found[5] and "<secret>" in found[5]
        hits = await page(search="LINE 777 ")
        assert hits["matches"] == 1 and (await page(start=hits["lines"][0]["start"]))["lines"][0] == "line 777 red"
        assert (await page(search="Bearer"))["matches"] == 1
        assert (await page(search="abcd"))["matches"] == 0, "a search tells nothing of what is hidden"

    with_server(run_dir.parent, ask)


def test_no_kind_of_secret_is_on_a_page_of_a_log(run_dir: Path) -> None:
    (run_dir / "logs" / "gateway.log").write_text("".join(f"INFO \x1b[33m{text}\x1b[0m\n" for _, text in CASES.values()))

    async def ask(url: str, http: aiohttp.ClientSession) -> None:
        async with http.get(f"{url}/api/run/made/log", params={"name": "gateway"}) as answer:
            shown = await answer.text()
        assert shown.count("secret>") >= len(CASES) / 2
        for kind, (secret, _) in CASES.items():
            assert secret not in shown, kind

    with_server(run_dir.parent, ask)


def test_runs_that_are_compared_are_read_first(run_dir: Path) -> None:
    """A run that nobody has looked at yet has its curves in a comparison all the same."""
    import shutil

    shutil.copytree(run_dir, run_dir.parent / "other")

    async def ask(url: str, http: aiohttp.ClientSession) -> None:
        async with http.get(f"{url}/api/compare", params={"runs": "made,other", "names": "actor/entropy"}) as answer:
            found = await answer.json()
        assert len(found["series"]["made"]["actor/entropy"]) == len(found["series"]["other"]["actor/entropy"]) == 12

    with_server(run_dir.parent, ask)
