"""Which class speaks for a run's sandboxes, and what it gives Harbor and the agent."""

from __future__ import annotations

import pytest

from swerl.facts.sandbox import WORDS, kind_of
from swerl.trials.backends import BACKENDS, Needs, backend_of

OURS = "swerl.trials.sandboxes"
URL = "http://10.0.0.9:4000"


def needs(network: str = "gateway", public_url: str | None = URL, **changes) -> Needs:
    return Needs("tag", {"network": network, "limits": {"processes": 7}}, True, public_url, **changes)


@pytest.mark.parametrize(
    ("environment", "kind"),
    [
        ({"import_path": f"{OURS}.bubblewrap:BubblewrapEnvironment"}, "bubblewrap"),
        ({"import_path": f"{OURS}.docker:DockerEnvironment"}, "docker"),
        ({"import_path": "harbor.environments.docker.docker:DockerEnvironment"}, "docker"),
        ({"type": "docker"}, "docker"),
        ({"import_path": f"{OURS}.kubernetes:KubernetesEnvironment"}, "kubernetes"),
        ({"import_path": "mine.kubernetes:KubernetesEnvironment"}, "other"),  # what ours takes it may not know
        ({"import_path": "mine.bubblewrap:Mine"}, "other"),
        ({"type": "podman"}, "other"),
        ({}, "other"),
    ],
)
def test_the_class_decides(environment, kind):
    assert backend_of(environment).kind == kind


def test_the_runner_and_the_rest_know_the_same_kinds():
    assert {backend.kind for backend in BACKENDS} == {*WORDS, kind_of("mine.sandbox:Sandbox")}


@pytest.mark.parametrize(
    ("kind", "network", "inside"),
    [
        ("bubblewrap", "gateway", "http://127.0.0.1:4000"),
        ("bubblewrap", "public", URL),
        ("bubblewrap", "none", None),
        ("docker", "gateway", "http://127.0.0.1:4000"),
        ("docker", "public", URL),
        ("docker", "none", None),
        ("kubernetes", "gateway", URL),
        ("kubernetes", "public", URL),
        ("kubernetes", "none", None),
        ("other", "gateway", URL),
    ],
)
def test_where_the_agent_finds_the_gateway(kind, network, inside):
    backend = next(b for b in BACKENDS if b.kind == kind)()
    before = {"import_path": "x:Y", "kwargs": {"theirs": 1}, "delete": True}
    dressed, url = backend.environment(before, needs(network, avoid=("b", "a")))
    assert url == inside and dressed["delete"] is True and dressed["kwargs"]["theirs"] == 1
    assert before == {"import_path": "x:Y", "kwargs": {"theirs": 1}, "delete": True}, "one configuration serves all attempts"
    if kind == "other":
        assert dressed == before
        return
    given = dressed["kwargs"]
    assert (given["run_tag"], given["network"], given["changes_only"]) == ("tag", network, True)
    assert given["gateway"] == ("10.0.0.9:4000" if network == "gateway" else None)
    assert given.get("avoid_hosts") == (["a", "b"] if kind == "kubernetes" else None)
    assert given.get("max_processes") == (7 if kind == "docker" else None)


def test_without_a_gateway_there_is_no_way_to_one():
    for backend in BACKENDS:
        dressed, url = backend().environment({"import_path": "x:Y"}, needs(public_url=None))
        assert url is None and dressed.get("kwargs", {}).get("network", "none") == "none"


def test_what_cannot_be_promised_is_said():
    assert [bool(backend().gaps()) for backend in BACKENDS if backend.kind != "bubblewrap"] == [False, False, True]
