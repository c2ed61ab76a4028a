"""services.json with several writers, and shared memory with several users."""

import http.server
import multiprocessing
import os
import subprocess
import sys
import threading
from multiprocessing import resource_tracker, shared_memory

from swerl.record.memory import used_mb
from swerl.record.rundir import read_json
from swerl.record.services import answers, entry_of
from swerl.runs import sharedmemory

WRITER = """
import sys
from pathlib import Path
from swerl.record.services import announce
for n in range(50):
    announce(Path(sys.argv[1]), sys.argv[2], {"n": n})
"""


def test_no_announcement_is_lost_when_services_announce_at_once(tmp_path):
    path = tmp_path / "services.json"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in ("gateway", "runner", "third")]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    found = read_json(path)
    assert {name: entry["n"] for name, entry in found.items()} == {"gateway": 49, "runner": 49, "third": 49}
    assert path.stat().st_mode & 0o777 == 0o600
    assert entry_of(path, "gateway", writers[0].pid)["n"] == 49
    assert entry_of(path, "gateway", writers[1].pid) is None, "an entry of an earlier process is no sign of life"


def test_a_refusal_is_an_answer_and_a_broken_or_absent_server_is_none():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(int(self.path[1:]))
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    assert answers(url, "/401") and answers(url, "/200") and not answers(url, "/503")
    server.shutdown()
    server.server_close()
    assert not answers(url, "/200")


def test_segments_are_seen_in_use_and_removed_only_when_nobody_uses_them(tmp_path):
    record = tmp_path / "shared-memory.json"
    watch = sharedmemory.NewSegments()
    watch.appeared()
    segment = shared_memory.SharedMemory(create=True, size=4096)
    resource_tracker.unregister(segment._name, "shared_memory")
    try:
        assert watch.appeared() and not watch.appeared()
        mine = sharedmemory.in_use([os.getpid()])
        assert segment.name in {s.name for s in mine}
        sharedmemory.remember(record, {s for s in mine if s.name == segment.name})
        sharedmemory.remember(record, {sharedmemory.Segment("another", 1)})
        assert len(sharedmemory.recall(record)) == 2
        assert sharedmemory.remove(record) == [], "this process still uses it"
        sharedmemory.remember(record, {s for s in mine if s.name == segment.name})
        segment.close()
        assert sharedmemory.remove(record) == [segment.name]
        assert not (sharedmemory.SHM / segment.name).exists() and not record.exists()
    finally:
        segment.close()
        (sharedmemory.SHM / segment.name).unlink(missing_ok=True)


def test_a_named_semaphore_is_seen_although_it_is_mapped_under_another_name():
    semaphore = multiprocessing.get_context("spawn").Semaphore()  # only spawn keeps the name, for the child to open
    name = semaphore._semlock.name.lstrip("/")
    assert f"sem.{name}" in {segment.name for segment in sharedmemory.in_use([os.getpid()])}


def test_a_later_file_of_the_same_name_is_not_removed(tmp_path):
    record, name = tmp_path / "shared-memory.json", "swerl-test-same-name"
    path = sharedmemory.SHM / name
    path.write_text("somebody else's")
    try:
        sharedmemory.remember(record, {sharedmemory.Segment(name, path.stat().st_ino + 1)})
        assert sharedmemory.remove(record) == [] and path.exists()
    finally:
        path.unlink()


def test_memory_is_that_of_living_processes():
    assert 5 < used_mb([os.getpid()]) < 4000
    assert used_mb([2**22 - 1]) == 0
