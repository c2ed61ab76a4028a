"""runner.py [--report FILE] [--key FILE] [--work DIR] [--twins PATH]... [--limit SECONDS] unittest|pytest|py.test [ARGUMENT]...

Runs tests as ``python -m unittest``, ``python -m pytest`` or ``pytest`` would, and believes nothing that is said in the process that runs
the code under test. Three kinds of processes:

- The keeper, which was started. It loads no code from the working directory. It draws an order for one run of the tests as they are and
  some runs of their `sentinels`, and is closed to other processes of its user (not dumpable) from then on.
- The starter, forked before the draw: it has the test tool loaded, writes the texts of a run, and forks a tester for it.
- A tester a run. It cannot tell which run it is. What it reports can be forged; what to forge is not known in it.

A run is over when every process of it is gone: the keeper is the parent of whatever outlives its own, and ends it. The keeper exits as
the tests as they are do, or with TAMPERED; it shows that run's output alone, and writes one line of JSON to ``--report``. ``--key`` names
a file with a secret, which signs that line; it is gone before any test runs, and replaced by its successor in the end. ``--limit`` is for
each run.

pytest's configuration is named by the keeper (-c, --rootdir); its plugins are those of installed distributions, named one by one.
"""

import sys
from posix import getcwd


def _foreign(work):
    """The search path without the places of the code under test: what the keeper imports must not come from there."""
    inside = work.rstrip("/") + "/"
    return [p for p in sys.path if p and ("-packages" in p or not (p + "/").startswith(inside) or inside == "/")]


if __name__ == "__main__":
    _HERE = __file__.rpartition("/")[0] or "."
    _SAFE = sys.flags.isolated or getattr(sys.flags, "safe_path", False)
    _THEIRS = [p for p in sys.path if p != _HERE]
    sys.path[:] = _foreign(sys.argv[sys.argv.index("--work") + 1] if "--work" in sys.argv else getcwd())

import hashlib
import hmac
import json
import os
import random
import re
import select
import signal
import tempfile
import time

TAMPERED = 97
RUNS = 4  # of which one is of the tests as they are
QUICK_S = 1.0  # tests that take longer are run twice only
OUTCOMES = ("passed", "skipped", "xfailed", "xpassed", "failed", "error")  # the worse of two is the later one
KEPT_BYTES = 16 << 20
FILES = 1000  # more test files than that have no sentinels
CONFIGURATIONS = (
    ("pytest.toml", None),
    (".pytest.toml", None),
    ("pytest.ini", None),
    (".pytest.ini", None),
    ("pyproject.toml", rb"^\s*\[\s*tool\s*\.\s*pytest\b"),
    ("tox.ini", rb"^\[pytest\]"),
    ("setup.cfg", rb"^\[tool:pytest\]"),
)


def main(words):
    options, tool, arguments = parse(words)
    texts = originals(options["twins"] + named_tests(arguments))
    outputs = [(tempfile.TemporaryFile(), tempfile.TemporaryFile()) for _ in range(RUNS)]
    preload(tool)
    asks_r, asks_w = os.pipe()
    tells_r, tells_w = os.pipe()
    starter = os.fork()
    if starter == 0:
        os.close(asks_w)
        os.close(tells_r)
        start(asks_r, tells_w, outputs, tool, arguments)
        os._exit(0)
    os.close(asks_r)
    os.close(tells_w)
    keeper = Keeper(starter, asks_w, tells_r, options["limit"])
    closed = conceal()
    key = take_key(options["key"])
    real, twins = keeper.hold(texts, named_files(arguments))
    code, report = verdict(real, twins, texts)
    report.update(tool=tool, closed=closed, left=keeper.left[:8])
    sign(options, key, report)
    for kept, fd in zip(outputs[real.number] if real.number is not None else (), (1, 2)):
        show(kept, fd)
    return code


def parse(words):
    options, at = {"report": None, "key": None, "work": None, "twins": [], "limit": None}, 0
    while at + 1 < len(words) and words[at].startswith("--") and words[at][2:] in options:
        name, value = words[at][2:], words[at + 1]
        if name == "twins":
            options[name].append(value)
        else:
            options[name] = float(value) if name == "limit" else value
        at += 2
    if at >= len(words) or words[at] not in ("unittest", "pytest", "py.test"):
        sys.exit(__doc__)
    return options, words[at], words[at + 1 :]


def named_tests(arguments):
    """Paths of tests among the tool's arguments: tests/test_a.py::Case, tests, tests.test_a."""
    paths = [argument.partition("::")[0] for argument in arguments if not argument.startswith("-")]
    return [path for name in paths for path in (name, name.replace(".", "/") + ".py") if path and os.path.exists(path)]


def originals(paths):
    """{path: text} of the test files of which sentinels can be made."""
    found = {}
    for path in paths:
        names = [path] if os.path.isfile(path) else sorted(os.path.join(at, n) for at, _, below in os.walk(path) for n in below)
        for name in names:
            if len(found) < FILES and name.endswith(".py") and not os.path.islink(name) and "-packages/" not in name:
                with open(name, "rb") as file:
                    data = file.read()
                if b"def test" in data:
                    found[os.path.abspath(name)] = data.decode("utf-8", "surrogateescape")
    return found


def preload(tool):
    """Import the test tool, so that it is imported once, and not from where the code under test lies."""
    if tool == "unittest":
        import unittest.main  # noqa: F401
    else:
        import pytest  # noqa: F401


def conceal():
    """Close this process to others of its user, and become the parent of what its descendants leave. False where the system cannot."""
    try:
        import ctypes
    except ImportError:  # some images build Python without it; the report says so
        return False
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return prctl(4, 0, 0, 0, 0) == 0 and prctl(36, 1, 0, 0, 0) == 0  # PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER


def take_key(path):
    if path is None or not os.path.exists(path):
        return None
    with open(path, "rb") as file:
        key = file.read()
    os.unlink(path)
    return key


def sign(options, key, report):
    if options["report"] is None:
        return
    text = json.dumps(report)
    line = {"report": text}
    if key is not None:
        line["mac"] = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    with open(options["report"], "a") as file:
        file.write(json.dumps(line) + "\n")
    if key is not None:
        with open(options["key"], "wb") as file:
            file.write(hashlib.sha256(key).hexdigest().encode())


def show(kept, fd):
    kept.seek(0)
    for data in iter(lambda: kept.read(1 << 16), b""):
        while data:
            data = data[os.write(fd, data) :]


# The keeper


class Run:
    """One run: of ``names`` (``file.function`` of what is a sentinel in it; none in the tests as they are). ``status`` is an exit code, or
    128 + a signal's number; None before its end."""

    def __init__(self, texts, names):
        self.texts, self.names, self.number, self.status = texts, names, None, None
        self.results, self.announced, self.ended, self.doubled = {}, None, None, False

    def take(self, kind, *said):
        if kind == "test":
            self.doubled = self.doubled or said[0] in self.results
            self.results[said[0]] = said[1] if said[1] in OUTCOMES else "error"
        elif kind == "end":
            self.doubled = self.doubled or self.ended is not None
            self.announced, self.ended = said

    @property
    def whole(self):
        """Whether it ended as test tools end: each result once, as many as there are tests, and the exit code that they come to."""
        bad = any(outcome in ("failed", "error") for outcome in self.results.values())
        counted = self.announced is None or self.announced == len(self.results) or bad  # -x stops at the first
        return not self.doubled and self.ended is not None and self.ended == self.status and counted and not (bad and self.status == 0)

    @property
    def claims(self):
        return {name for name, outcome in self.results.items() if outcome == "passed"}


class Keeper:
    def __init__(self, starter, asks, tells, limit_s):
        self.starter, self.asks, self.tells, self.limit_s = starter, asks, tells, limit_s
        self.inbox, self.left = b"", []
        signal.signal(signal.SIGTERM, self.give_up)

    def give_up(self, number, _):
        self.end_others(None)
        os._exit(128 + number)

    def hold(self, texts, files):
        """(run of the tests as they are, runs of sentinels), in an order that only this process knows. A file of ``files`` (where the tool
        writes) is left as the former leaves it."""
        draw = random.SystemRandom()
        real, changed = Run(texts, ()), [Run(*twins(texts, draw)) for _ in range(RUNS - 1)] if texts else []
        runs = [real] + [run for run in changed if run.names]
        draw.shuffle(runs)
        done, slow, kept = [], False, {}
        for run in runs:
            if slow and run is not real and any(other is not real for other in done):
                continue
            began = time.time()
            run.number = len(done)
            self.carry_out(run)
            done.append(run)
            slow = slow or time.time() - began > QUICK_S
            if run is real:
                kept = {path: content(path) for path in files}
                if not real.claims and real.status != 0:
                    break  # nothing is claimed, so that nothing is to be shown
        os.close(self.asks)  # the starter ends
        self.end_others(None)
        for path, text in texts.items():
            write(path, text, None)
        for path, data in kept.items():
            if data is not None and data != content(path):
                with open(path, "wb") as file:
                    file.write(data)
        return real, [run for run in done if run is not real]

    def carry_out(self, run):
        nonce = "%032x" % random.SystemRandom().getrandbits(128)
        try:
            tell(self.asks, {"nonce": nonce, "number": run.number, "texts": run.texts})
        except OSError:
            run.status = 128 + signal.SIGKILL  # the starter is gone
            return
        until = time.time() + self.limit_s if self.limit_s else None
        while run.status is None:
            message = self.hear(until)
            if message is None:
                run.status = 124 if until and time.time() >= until else 128 + signal.SIGKILL
            elif message[:2] == [nonce, "status"]:
                run.status = message[2]
            elif message[0] == nonce:
                run.take(*message[1:])
        self.end_others(self.starter)

    def hear(self, until):
        """The next message; None at the end of the time or of the starter."""
        while b"\n" not in self.inbox:
            left_s = max(0.0, until - time.time()) if until else None
            if not select.select([self.tells], [], [], left_s)[0]:
                return None
            data = os.read(self.tells, 1 << 16)
            if not data:
                return None
            self.inbox += data
        line, _, self.inbox = self.inbox.partition(b"\n")
        try:
            message = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            return [None]  # whoever can write here can write anything
        return message if isinstance(message, list) and message else [None]

    def end_others(self, spared):
        """End every descendant but ``spared``, and what it leaves. Their command lines are kept."""
        until = time.time() + 10
        while True:
            found = [pid for pid in descendants() if pid != spared]
            for pid in found:
                line = content("/proc/%d/cmdline" % pid)
                if line and spared is not None:
                    self.left.append(line[:200].replace(b"\0", b" ").decode("utf-8", "replace").strip())
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue  # it ended by itself
            try:
                while found and os.waitpid(-1, os.WNOHANG)[0]:
                    continue
            except ChildProcessError:
                return
            if not found:
                return
            if time.time() > until:
                raise RuntimeError("processes of the tests survive SIGKILL")
            time.sleep(0.001)


def twins(texts, draw):
    """(texts of one run of sentinels, the names that are sentinels in it)."""
    from sentinels import twin

    changed, names = dict(texts), set()
    for path, text in texts.items():
        made = twin(text, draw)
        if made is not None:
            changed[path] = made[0]
            names |= {stem(path) + "." + name for name in made[1]}
    return changed, names


def stem(path):
    return os.path.basename(path)[:-3]


def function_of(name):
    """``file.function`` of a test's id: tests/test_a.py::Case::test_b[1], or package.test_a.Case.test_b."""
    if "::" in name:
        path, _, rest = name.partition("::")
        return stem(path) + "." + rest.partition("[")[0].rpartition("::")[2]
    parts = name.split(" ")[0].split(".")
    return ".".join(parts[-3:-2] + parts[-1:])


def verdict(real, twins, texts):
    """(exit code, report)."""
    may_fail = {stem(path) for path, text in texts.items() if "xfail" not in text and "expectedFailure" not in text}
    for name, outcome in real.results.items():
        if outcome == "xfailed" and function_of(name).partition(".")[0] in may_fail:
            real.results[name], real.doubled = "error", True  # no test of that file says that it may fail
    both = sorted({name for run in twins for name in run.claims & real.claims if function_of(name) in run.names})
    early = any(run.status == 0 and not run.whole for run in [real] + twins)
    report = {
        "status": real.status,
        "whole": real.whole,
        "results": sorted(real.results.items()),
        "sentinel_runs": len(twins),
        "sentinels_passed": both[:16],
        "ended_early": early,
    }
    return TAMPERED if both or early else real.status, report


def descendants():
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            text = content("/proc/%s/stat" % name)
            if text:
                fields = text.rpartition(b")")[2].split()
                if fields[0] != b"Z" or int(fields[1]) == os.getpid():
                    parents[int(name)] = int(fields[1])
    found, more = set(), {os.getpid()}
    while more:
        more = {pid for pid, parent in parents.items() if parent in more} - found
        found |= more
    return found


def content(path):
    try:
        with open(path, "rb") as file:
            return file.read(KEPT_BYTES)
    except OSError:
        return None  # it is not there, or gone in between


def named_files(arguments):
    """Where the tool writes, by its arguments: --junitxml=FILE, --ctrf FILE."""
    values = [argument.rpartition("=")[2] for argument in arguments]
    return [value for value in values if re.search(r"\.(xml|json|jsonl|html|txt|csv|log|tap)$", value)]


# The starter and its testers


def tell(fd, message):
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(fd, data) :]


def write(path, text, number):
    """A new time of change for each run, by which caches of compiled files go."""
    with open(path, "wb") as file:
        file.write(text.encode("utf-8", "surrogateescape"))
    if number is not None:
        at = int(time.time()) - 100 + 10 * number
        os.utime(path, (at, at))


def start(asks, tells, outputs, tool, arguments):
    with os.fdopen(asks, "rb") as lines:
        for line in lines:
            ask = json.loads(line.decode())
            for path, text in ask["texts"].items():
                write(path, text, ask["number"])
            pid = os.fork()
            if pid == 0:
                try:
                    os.close(lines.fileno())
                    for kept, fd in zip(outputs[ask["number"]], (1, 2)):
                        os.dup2(kept.fileno(), fd)
                    for pair in outputs:
                        for kept in pair:
                            os.close(kept.fileno())
                    test(lambda *said: tell(tells, (ask["nonce"],) + said), tool, arguments)
                finally:
                    os._exit(70)
            status = os.waitpid(pid, 0)[1]
            code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
            tell(tells, (ask["nonce"], "status", code))


def test(say, tool, arguments):
    random.seed()
    sys.dont_write_bytecode = True
    sys.path[:] = ([] if _SAFE or tool == "py.test" else [os.getcwd()]) + _THEIRS
    main_module = sys.modules["__main__"]
    main_module.__dict__.pop("__file__", None)  # a process that multiprocessing spawns is to run none of this
    sys.argv[:] = [tool] + arguments
    try:
        results, announced, code = (with_unittest if tool == "unittest" else with_pytest)(arguments)
    except SystemExit as error:
        results, announced, code = {}, 0, error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        results, announced, code = {}, 0, 1
    for name, outcome in results.items():
        say("test", name, outcome)
    say("end", announced, int(code))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code))


def worse(results, name, outcome):
    results[name] = max(results.get(name, OUTCOMES[0]), outcome, key=OUTCOMES.index)


def with_unittest(arguments):
    import unittest

    results = {}

    class Recorder(unittest.TextTestResult):
        def addSuccess(self, test):
            worse(results, test.id(), "passed")
            super().addSuccess(test)

        def addError(self, test, err):
            worse(results, test.id(), "error")
            super().addError(test, err)

        def addFailure(self, test, err):
            worse(results, test.id(), "failed")
            super().addFailure(test, err)

        def addSkip(self, test, reason):
            worse(results, test.id(), "skipped")
            super().addSkip(test, reason)

        def addExpectedFailure(self, test, err):
            worse(results, test.id(), "xfailed")
            super().addExpectedFailure(test, err)

        def addUnexpectedSuccess(self, test):
            worse(results, test.id(), "failed")
            super().addUnexpectedSuccess(test)

        def addSubTest(self, test, subtest, err):
            if err is not None:
                worse(results, test.id(), "failed")
            super().addSubTest(test, subtest, err)

    class Runner(unittest.TextTestRunner):
        resultclass = Recorder

    argv, code = ["python -m unittest"] + arguments, 0
    try:
        unittest.main(module=None, argv=argv, testRunner=Runner)
    except SystemExit as error:
        code = int(error.code or 0)
    return results, None, code


def with_pytest(arguments):
    import pytest

    results, collected = {}, []

    class Recorder:
        def pytest_collection_finish(self, session):
            collected.extend(item.nodeid for item in session.items)

        def pytest_runtest_logreport(self, report):
            if hasattr(report, "wasxfail"):
                outcome = "xfailed" if report.skipped else "xpassed"
            elif report.failed:
                outcome = "failed" if report.when == "call" else "error"
            else:
                outcome = report.outcome
            worse(results, report.nodeid, outcome)

    found = installed_plugins(arguments) if version(pytest) >= (4, 4) else []
    if found:
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    code = pytest.main(found + settled(arguments, version(pytest)) + arguments, plugins=[Recorder()])
    announced = len(set(collected)) if collected else None  # with workers, it is they who collect
    return results, announced, code


def version(module):
    return tuple(int(part) for part in re.findall(r"\d+", module.__version__)[:2])


def installed_plugins(arguments):
    """-p for each plugin of a distribution; the first is none, so that a list of none is no empty list."""
    try:
        from importlib.metadata import distributions
    except ImportError:  # Python 3.7: pytest finds them itself
        return []
    refused = {argument[len("no:") :] for argument in arguments if argument.startswith("no:")}
    refused |= {argument[len("-pno:") :] for argument in arguments if argument.startswith("-pno:")}
    names = {entry.name for found in distributions() for entry in found.entry_points if entry.group == "pytest11"} - refused
    return ["-p", "no:swerl-nothing"] + [word for name in sorted(names) for word in ("-p", name)]


def settled(arguments, pytest_version):
    """The configuration that pytest would find by itself, by name; an empty one where it would find none."""
    if any(argument.split("=")[0] in ("-c", "--config-file", "--rootdir") for argument in arguments):
        return []
    places = [os.path.abspath(argument.partition("::")[0]) for argument in arguments if not argument.startswith("-")]
    places = [place if os.path.isdir(place) else os.path.dirname(place) for place in places if os.path.exists(place)]
    ancestor = os.path.commonpath(places) if places else os.getcwd()
    above = [ancestor]
    while above[-1] != "/":
        above.append(os.path.dirname(above[-1]))
    known = CONFIGURATIONS if pytest_version >= (9, 0) else CONFIGURATIONS[2:]
    for place in above:
        for name, pattern in known:
            text = content(os.path.join(place, name))
            if text is not None and (pattern is None or re.search(pattern, text, re.MULTILINE)):
                return ["-c", os.path.join(place, name), "--rootdir", place]
    beside_setup = [place for place in above if os.path.exists(os.path.join(place, "setup.py"))]
    common = os.path.commonpath([os.getcwd(), ancestor])
    root = beside_setup[0] if beside_setup else ancestor if common == "/" else common
    return ["-c", os.devnull, "--rootdir", root, "--confcutdir", root]


if __name__ == "__main__":
    sys.path.insert(0, _HERE)
    sys.exit(main(sys.argv[1:]))
