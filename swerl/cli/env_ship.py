"""``swerl env`` verbs that make something: a lock, images, agents' runtimes, manifests, a bundle."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

import click

from swerl.cli.env_common import lock_option, the_lock
from swerl.cli.next_step import say_next, swerl
from swerl.environment.agents import Archive, install, read_agents
from swerl.environment.images import CONTEXTS, Request, build, engine_here, sandbox_requirements
from swerl.environment.lockcheck import lock_problems
from swerl.environment.locking import make_lock
from swerl.errors import SwerlError


@click.command("lock")
@lock_option
@click.option("--cool-down-days", default=7, show_default=True, help="Releases younger than this stay out.")
@click.option("--upgrade", is_flag=True, help="Let locked versions move.")
def lock_command(lock_path: Path | None, cool_down_days: int, upgrade: bool) -> None:
    """Write uv.lock anew from pyproject.toml, on the public index alone."""
    project = the_lock(lock_path).path.parent
    make_lock(project, datetime.datetime.now(datetime.UTC).date(), cool_down_days, upgrade)
    lock = the_lock(lock_path)
    if problems := lock_problems(lock):
        raise SwerlError(*problems)
    click.echo(f"{lock.path} has {len(lock.packages)} packages, sha256 {lock.sha256}")
    say_next("make setup", swerl("env", "records", "--write"))


@click.command("image")
@lock_option
@click.option("--target", type=click.Choice(sorted(CONTEXTS)), default="trainer", show_default=True)
@click.option("--extra", type=click.Choice(["gpu", "cpu"]), default=None, help="Trainer only; default gpu.")
@click.option("--engine", type=click.Choice(["auto", "buildah", "docker"]), default="auto", show_default=True)
@click.option("--base-image", default=None, help="Instead of the digest in the Containerfile, where no registry is in reach.")
@click.option("--uv-image", default=None, help="Default: the digest in the Containerfile; with --base-image, the uv of this host.")
@click.option("--tag", default=None, help="Default: localhost/swerl-TARGET:<lock hash>.")
@click.option("--epoch", "epoch_s", default=0, show_default=True, envvar="SOURCE_DATE_EPOCH", help="Time of every file and of the image.")
def image_command(
    lock_path: Path | None,
    target: str,
    extra: str | None,
    engine: str,
    base_image: str | None,
    uv_image: str | None,
    tag: str | None,
    epoch_s: int,
) -> None:
    """Build an image from containers/ and print its digest."""
    lock = the_lock(lock_path)
    project = lock.path.parent
    if target == "sandbox":
        place = project / "build" / "sandbox-requirements.txt"
        place.parent.mkdir(exist_ok=True)
        place.write_text(sandbox_requirements(project), encoding="utf-8")
    if target == "agents":
        archives = [agent for agent in read_agents(project / "containers" / "agents.json") if isinstance(agent, Archive)]
        install(archives, project / "build" / "agents-image")
    name = tag or f"localhost/swerl-{target}:{lock.sha256[:16]}"
    image = build(Request(project, target, engine_here(engine), name, extra, base_image, uv_image, epoch_s))
    note = "" if image.reproducible else "  (docker: times of its own, not equal from build to build; use buildah for equal digests)"
    click.echo(f"{image.name}@{image.digest}{note}")


@click.command("manifests")
@click.option("--config", "config_path", type=click.Path(path_type=Path), default=Path("config.yaml"), show_default=True)
@click.option("--profile", default=None)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE")
@click.option("--image", required=True, help="The trainer image, as NAME@sha256:DIGEST.")
@click.option("--namespace", default="swerl", show_default=True, help="Namespace of the run; sandboxes have k8s.namespace.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("build/manifests"), show_default=True)
def manifests_command(config_path: Path, profile: str | None, overrides: Sequence[str], image: str, namespace: str, out: Path) -> None:
    """Render Kubernetes and KubeRay objects for a run."""
    from swerl.cluster import ManifestOptions, render
    from swerl.config import load

    config = load(config_path, profile, dict(entry.split("=", 1) for entry in overrides))
    out.mkdir(parents=True, exist_ok=True)
    for name, text in render(config, ManifestOptions(image=image, namespace=namespace)).items():
        (out / name).write_text(text, encoding="utf-8")
        click.echo(out / name)
    click.echo(f"next: kubectl apply -f {out} (claims and the Secret of the run are yours to make: docs/environment.md)")


@click.command("bundle")
@lock_option
@click.option(
    "--train", type=click.Path(path_type=Path), default=Path(".venv/train"), show_default=True, help="Environment that is packed."
)
@click.option("--trials", type=click.Path(path_type=Path), default=None, help="Pack this environment of the trial runner too.")
@click.option("--extra", type=click.Choice(["gpu", "cpu"]), default="gpu", show_default=True)
@click.option(
    "--inventory", type=click.Path(path_type=Path), default=None, help="What the target has: `swerl env inventory --script`, run there."
)
@click.option("--trim", default=None, help="Leave out what a kind of target does not use, by a table's name (hopper).")
@click.option("--part-mb", default=60.0, show_default=True, help="Size of a part.")
@click.option("--add", multiple=True, metavar="NAME=PATH", help="A file or folder that goes along, such as a model or tasks.")
@click.option("--preset", default=6, show_default=True, type=click.IntRange(0, 9), help="Effort of compression.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("build/bundle"), show_default=True)
def bundle_command(
    lock_path: Path | None,
    train: Path,
    trials: Path | None,
    extra: str,
    inventory: Path | None,
    trim: str | None,
    part_mb: float,
    add: Sequence[str],
    preset: int,
    out: Path,
) -> None:
    """Pack a locked environment for a host without network, less what it has."""
    from swerl.environment.bundle import plan, read_inventory, read_trim, write
    from swerl.environment.installed import read_environment

    chosen = {"train": (read_environment(train), [extra])}
    if trials is not None:
        chosen["trials"] = (read_environment(trials), ["trials"])
    planned = plan(
        the_lock(lock_path),
        chosen,
        read_inventory(inventory) if inventory else None,
        read_trim(trim) if trim else None,
        {name: Path(path) for name, _, path in (entry.partition("=") for entry in add)},
    )
    click.echo(f"{len(planned.items):,} files; {len(planned.kept)} packages are the target's own, {len(planned.dropped)} entries trimmed")
    manifest = write(planned, out, int(part_mb * 1024 * 1024), preset)
    packed = sum(part["bytes"] for part in manifest["parts"])
    click.echo(f"{manifest['bytes'] / 1e6:,.0f} MB in {packed / 1e6:,.1f} MB, {len(manifest['parts'])} parts in {out}")
    click.echo("next, on the target: python3 install.py --into FOLDER --project CHECKOUT")


COMMANDS = (lock_command, image_command, manifests_command, bundle_command)
