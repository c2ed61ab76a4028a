"""Events and metrics become lines, each once, through resumes."""

import io

from swerl.record.events import EventLog
from swerl.record.metrics import MetricsLog
from swerl.record.rundir import RunDir
from swerl.record.words import duration
from swerl.runs.display import PlainDisplay, summary
from swerl.runs.feed import Feed, Sizes


def test_rows_are_told_once_also_when_a_resume_rewrites_the_file(tmp_path):
    run = RunDir.at(tmp_path / "a")
    log = MetricsLog(run.metrics)
    log.append(1, "L1", {"critic/score/mean": 0.25})
    feed = Feed(run, total_steps=4)
    assert feed.poll() == [], "what was there before is no news"
    log.append(2, "L1", {"critic/score/mean": 0.5, "timing_s/step": 2.0})
    log.append(3, "L1", {"swerl/val/resolve_rate": 0.375})
    assert feed.poll() == ["step 2/4  reward 0.500  2.0 s", "step 3/4  resolve rate 0.375"]
    log.resume(2)
    log.append(3, "L2", {})
    assert feed.poll() == ["step 3/4"]
    assert (feed.progress.step, feed.progress.resolve_rate, feed.progress.reward) == (3, 0.375, 0.5)


def test_events_are_told_in_order_of_time_and_set_the_phase(tmp_path):
    run = RunDir.at(tmp_path / "a")
    feed = Feed(run)
    supervisor, trainer, runner = (EventLog(run.events_of(name), name) for name in ("supervisor", "trainer", "runner"))
    supervisor.emit("process.started", process="trainer", pid=7)
    trainer.emit("trainer.start", restored_step=6)
    trainer.emit("step.begin", step=7)
    runner.emit("trial.settled", trial="t")
    runner.emit("some.unknown.kind", x=1)
    assert feed.poll() == ["trainer started (pid 7)", "continues from the checkpoint of step 6"]
    assert (feed.progress.phase, feed.progress.trials, feed.progress.step) == ("step 7: trials", 1, 6)
    assert "1 settled" in summary(feed.progress) and "step 6 done" in summary(feed.progress)


def test_an_evaluation_says_how_long_it_will_take(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("swerl.runs.feed.time.monotonic", lambda: now[0])
    run = RunDir.at(tmp_path / "a")
    feed = Feed(run)
    events = EventLog(run.events_of("evaluation"), "evaluation")
    events.emit("evaluation.begin", mode="infer", tasks=16, samples=8, version="v", left=120, at_once=10)
    assert feed.poll() == ["16 tasks, 8 attempts each: 128, 8 of them settled before"]
    told = []
    for second in range(1, 121):
        now[0] += 1.0  # one settles every second, with ten under way
        events.emit("trial.settled", trial=f"t{second}")
        told += feed.poll()
        if second < 10:
            assert feed.progress.left_s() is None and "left" not in summary(feed.progress)
    assert told == ["10 of 120 attempts: about 1m10s more"]  # ten done and ten half done in ten seconds: 105 more at 1.5 a second
    assert feed.progress.left_s() is None and "120 of 120 settled" in summary(feed.progress)


def test_a_quiet_run_says_where_it_stands(tmp_path):
    out = io.StringIO()
    display = PlainDisplay(out, quiet_s=0.0)
    display.line("hello")
    display.show(Feed(RunDir.at(tmp_path)).progress)
    assert "hello" in out.getvalue() and "starting for 0s" in out.getvalue()
    assert [duration(s) for s in (5, 65, 3725)] == ["5s", "1m05s", "1h02m"]


def test_a_validation_has_a_total_and_the_time_left_counts_those_to_come(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("swerl.runs.feed.time.monotonic", lambda: now[0])
    monkeypatch.setattr("swerl.record.events.time.time", lambda: now[0])
    run = RunDir.at(tmp_path / "a")
    feed = Feed(run, total_steps=12, sizes=Sizes(step=32, validation=256, at_once=16, validate_every=6))
    trainer, metrics = EventLog(run.events_of("trainer"), "trainer"), MetricsLog(run.metrics)
    trainer.emit("validation.begin", step=0)
    for trial in range(64):
        trainer.emit("trial.settled", trial=str(trial))
    assert feed.poll() == [], "a line for each phase would say nothing new"
    now[0] += 36.0
    assert "validating 64 of 256 settled for 36s | about 1m32s left" in summary(feed.progress)  # 184 more at two a second
    now[0] += 84.0
    trainer.emit("validation.end", step=0)
    for step, seconds in ((1, 30.0), (2, 20.0), (3, 10.0)):
        metrics.append(step, "L", {"timing_s/step": seconds})
    feed.poll()
    assert feed.progress.run_left_s == 9 * 20.0 + 2 * 120.0, "nine steps, and validations after steps 6 and 12"
    assert "about 7m00s of the run left" in summary(feed.progress)
    trainer.emit("step.begin", step=4)
    trainer.emit("trial.settled", trial="t")
    feed.poll()
    assert "step 4: trials 1 of 32 settled" in summary(feed.progress)
