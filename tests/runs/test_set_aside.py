"""What the runner has given up is among the alarms of a run."""

from swerl.runs.status import alarms_of

EVENTS = [
    {"kind": "task.quarantined", "time": 1.0, "task": "t1", "attempts": 4, "error": "no such image"},
    {"kind": "trial.failed", "time": 2.0, "error": "x"},
    {"kind": "host.quarantined", "time": 3.0, "host": "node-b", "attempts": 4, "error": "disk full"},
]


def test_tasks_and_hosts_are_alarms_with_their_first_failure():
    assert [line.split(" ", 1)[1] for line in alarms_of(EVENTS)] == [
        "task.quarantined t1 no such image",
        "host.quarantined node-b disk full",
    ]
