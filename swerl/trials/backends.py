"""What differs between the kinds of sandboxes, as far as the runner is concerned: one class each, chosen once for a run by `backend_of`.

A new kind is one class here and its row in `BACKENDS`. The sandboxes themselves are in `sandboxes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from swerl.trials.sandboxes import engine, limits

Environment = Mapping[str, Any]  # of Harbor's trial configuration, in its field names


@dataclass(frozen=True, slots=True)
class Needs:
    """What one attempt's sandbox is to be. ``public_url`` is where the gateway listens, None where the agent has no business with it;
    ``changes_only``: only what the agent changed goes on to the verifier; ``avoid`` are hosts that failed."""

    run_tag: str
    sandbox: Mapping[str, Any]
    changes_only: bool
    public_url: str | None = None
    avoid: Sequence[str] = field(default=())

    @property
    def address(self) -> str | None:
        """The gateway's host and port."""
        return None if self.public_url is None else self.public_url.partition("://")[2].partition("/")[0]

    @property
    def network(self) -> Literal["none", "gateway", "public"]:
        wanted = self.sandbox.get("network", "none")
        return "none" if wanted == "gateway" and self.address is None else wanted

    @property
    def loopback_url(self) -> str | None:
        """The gateway behind the socket that a sandbox without a network has."""
        return None if self.address is None else f"http://127.0.0.1:{self.address.rpartition(':')[2]}"

    def arguments(self) -> dict[str, Any]:
        """What every class of ours takes."""
        gateway = self.address if self.network == "gateway" else None
        return {"run_tag": self.run_tag, "network": self.network, "gateway": gateway, "changes_only": self.changes_only}


class Backend(Protocol):
    """``kind`` is the word for it."""

    kind: ClassVar[str]

    @staticmethod
    def runs(environment: Environment) -> bool:
        """Whether it is the one that the environment names."""
        ...

    def gaps(self) -> list[str]:
        """What these sandboxes do not do that a run may count on, one phrase each."""
        ...

    def environment(self, environment: Environment, needs: Needs) -> tuple[dict[str, Any], str | None]:
        """Harbor's environment with what the sandbox needs to know, and the gateway's address as seen from inside; None: out of reach."""
        ...

    def reap(self, run_tag: str, environment: Environment) -> dict[str, int]:
        """Remove what a run left that is no process, mount or directory of this host, and count it by name. RuntimeError when whoever has
        it cannot be asked."""
        ...


class Bubblewrap:
    kind: ClassVar[str] = "bubblewrap"
    path = "swerl.trials.sandboxes.bubblewrap:BubblewrapEnvironment"

    @staticmethod
    def runs(environment: Environment) -> bool:
        return environment.get("import_path") == Bubblewrap.path

    def gaps(self) -> list[str]:
        return limits.missing()

    def environment(self, environment: Environment, needs: Needs) -> tuple[dict[str, Any], str | None]:
        dressed = {**environment, "kwargs": {**environment.get("kwargs", {}), **needs.sandbox, **needs.arguments()}}
        return dressed, {"gateway": needs.loopback_url, "public": needs.public_url, "none": None}[needs.network]

    def reap(self, run_tag: str, environment: Environment) -> dict[str, int]:
        return {}  # everything of it is on this host, where `sandboxes.reaper` looks


class Docker:
    """Ours, also where Harbor's own is named."""

    kind: ClassVar[str] = "docker"

    @staticmethod
    def runs(environment: Environment) -> bool:
        named = environment.get("import_path") or environment.get("type") or ""
        return named == "docker" or named.startswith(("harbor.environments.docker.", "swerl.trials.sandboxes.docker:"))

    def gaps(self) -> list[str]:
        return []

    def environment(self, environment: Environment, needs: Needs) -> tuple[dict[str, Any], str | None]:
        from swerl.trials.sandboxes import docker  # with Harbor's class, which a reaper has no use for

        processes = needs.sandbox.get("limits", {}).get("processes")
        dressed = docker.settings(environment, **needs.arguments(), **({"max_processes": processes} if processes else {}))
        outside = None if needs.public_url is None else engine.inside_url(needs.public_url)
        return dressed, {"gateway": needs.loopback_url, "public": outside, "none": None}[needs.network]

    def reap(self, run_tag: str, environment: Environment) -> dict[str, int]:
        return {"containers": engine.reap(run_tag)}


class Kubernetes:
    kind: ClassVar[str] = "kubernetes"

    @staticmethod
    def runs(environment: Environment) -> bool:
        return (environment.get("import_path") or "").startswith("swerl.trials.sandboxes.kubernetes:")

    def gaps(self) -> list[str]:
        return []

    def environment(self, environment: Environment, needs: Needs) -> tuple[dict[str, Any], str | None]:
        kwargs = {**environment.get("kwargs", {}), **needs.arguments(), "avoid_hosts": sorted(needs.avoid)}
        return {**environment, "kwargs": kwargs}, None if needs.network == "none" else needs.public_url

    def reap(self, run_tag: str, environment: Environment) -> dict[str, int]:
        from swerl.trials.sandboxes import cluster  # its client costs a second of import

        where = environment.get("kwargs", {})
        return {"pods": cluster.reap(run_tag, where["namespace"], where.get("kubeconfig"), where.get("context"))}


class Other:
    """A class that we know nothing of: it gets Harbor's arguments and the user's."""

    kind: ClassVar[str] = "other"

    @staticmethod
    def runs(environment: Environment) -> bool:
        return True

    def gaps(self) -> list[str]:
        return ["grading in a fresh sandbox (this backend is graded where the agent was)", "the network kept to the gateway"]

    def environment(self, environment: Environment, needs: Needs) -> tuple[dict[str, Any], str | None]:
        return dict(environment), needs.public_url

    def reap(self, run_tag: str, environment: Environment) -> dict[str, int]:
        return {}


BACKENDS: tuple[type[Backend], ...] = (Bubblewrap, Docker, Kubernetes, Other)  # the first that runs the environment has it


def backend_of(environment: Environment) -> Backend:
    return next(backend for backend in BACKENDS if backend.runs(environment))()
