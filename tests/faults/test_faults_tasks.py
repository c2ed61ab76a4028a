"""Faults of task sets: J4, J11, J19, J20, J21, J39, J40, J53."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def _rewrite(site, task, name: str, text: str) -> None:
    (task / name).write_text(text)
    site.index()


def test_j4_grader_cloned_when_it_grades(site):
    """tests/test.sh clones the grader; without network the parser is missing and every trial scores 0."""
    _rewrite(
        site, site.train[3], "tests/test.sh", "#!/bin/bash\ngit clone https://example.org/grader /opt/grader\npython3 /opt/grader/run.py\n"
    )
    report = site.preflight(only=["SWERL-P406"])
    assert report.ids == {"SWERL-P406"} and "git clone" in report.problems[0].message


def test_j11_packages_installed_in_every_sandbox(site):
    """Each verifier fills a package cache of its own: a storm of small files with a hundred sandboxes."""
    _rewrite(site, site.val[0], "tests/test.sh", "#!/bin/bash\nuv pip install pytest\npytest\n")
    report = site.preflight(only=["SWERL-P406"])
    assert report.ids == {"SWERL-P406"} and "uv pip install" in report.problems[0].message


def test_j19_installer_piped_into_a_shell(site):
    """`curl | sh` without network ends well, and the tool is not there."""
    text = "FROM debian:12\nRUN curl -LsSf https://example.org/install.sh | sh\n"
    _rewrite(site, site.train[0], "environment/Dockerfile", text)
    assert site.preflight(only=["SWERL-P407"]).ids == {"SWERL-P407"}
    _rewrite(
        site, site.train[0], "environment/Dockerfile", text.replace("RUN curl", 'SHELL ["/bin/bash", "-o", "pipefail", "-c"]\nRUN curl')
    )
    assert site.preflight(only=["SWERL-P407"]).ids == set()


def test_j20_specification_downloaded_when_it_grades(site):
    """A Python part of the verifier asks the network for the test's specification."""
    (site.val[1] / "tests" / "parser.py").write_text("from swebench import make_test_spec\nmake_test_spec('x')\n")
    site.index()
    report = site.preflight(only=["SWERL-P406"])
    assert report.ids == {"SWERL-P406"} and "make_test_spec" in report.problems[0].message


@contextmanager
def _registry(known: set[str]) -> Iterator[str]:
    """A container registry that has these repositories, for everybody who fetches a token."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            repository = self.path.removeprefix("/v2/").rpartition("/manifests/")[0]
            if self.headers.get("Authorization") != "Bearer anonymous":
                self.send_response(401)
                realm = f"http://{self.headers['Host']}/token"
                self.send_header("WWW-Authenticate", f'Bearer realm="{realm}",service="registry",scope="repository:{repository}:pull"')
            else:
                self.send_response(200 if repository in known else 404)
            self.end_headers()

        def do_GET(self) -> None:
            body = b'{"token": "anonymous"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_j21_image_that_cannot_be_pulled(site):
    """One validation task names an image that its registry does not have."""
    site.program("docker", "exit 1")
    sets = {"harbor_agent.environment_import_path": "harbor.environments.docker.docker:DockerEnvironment"}
    with _registry({"swe/there"}) as address:
        for task in [*site.train, *site.val]:
            (task / "environment" / "Dockerfile").write_text(f"FROM {address}/swe/there:v1\n")
        assert site.preflight(sets, only=["SWERL-P512"]).ids == set()
        (site.val[2] / "task.toml").write_text(f'[environment]\ndocker_image = "{address}/swe/gone:v1"\n')
        report = site.preflight(sets, only=["SWERL-P512"])
    assert report.ids == {"SWERL-P512"} and "swe/gone:v1" in report.fatal[0].message


def test_j39_path_of_the_image_replaced(site):
    """ENV PATH without $PATH: the image's own tools are not found, and the task scores 0."""
    _rewrite(site, site.train[1], "environment/Dockerfile", "FROM rust:1\nENV PATH=/opt/tools/bin\n")
    assert site.preflight(only=["SWERL-P408"]).ids == {"SWERL-P408"}
    _rewrite(site, site.train[1], "environment/Dockerfile", "FROM rust:1\nENV PATH=/opt/tools/bin:$PATH\n")
    assert site.preflight(only=["SWERL-P408"]).ids == set()


def test_j40_file_named_like_a_standard_module(site):
    """token.py beside the verifier hides the standard library's, and the verifier's own imports fail."""
    (site.train[2] / "tests" / "token.py").write_text("")
    site.index()
    assert site.preflight(only=["SWERL-P409"]).ids == {"SWERL-P409"}


def test_j53_tasks_that_nothing_proves_solvable(site):
    """A task without a gold solution cannot be told from one whose tests no patch passes."""
    (site.train[5] / "solution" / "solve.sh").unlink()
    site.index()
    assert site.preflight(only=["SWERL-P410"]).ids == {"SWERL-P410"}
