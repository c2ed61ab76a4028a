"""The part of a Dockerfile that a bubblewrap sandbox honours, and what it refuses by line."""

import pytest

from swerl.errors import SwerlError
from swerl.trials.sandboxes.dockerfile import Copy, Run, parse


def parsed(tmp_path, text):
    (tmp_path / "Dockerfile").write_text(text)
    return parse(tmp_path / "Dockerfile")


def test_what_is_carried_out(tmp_path):
    build = parsed(
        tmp_path,
        """# a comment
ARG BASE=x
FROM python:3.12-slim
ENV HOME=/root LANG="C.UTF-8"
ENV OLD style value
WORKDIR /testbed
WORKDIR sub
COPY --chown=root:root repo/ ./
COPY a.txt b.txt /data/
RUN pip install -e . \\
    && echo $HOME
RUN ["echo", "a b"]
USER root
CMD ["bash"]
""",
    )
    assert build.image == "python:3.12-slim" and build.workdir == "/testbed/sub"
    assert build.env == {"HOME": "/root", "LANG": "C.UTF-8", "OLD": "style value"}
    assert build.steps[0] == Copy(("repo/",), "/testbed/sub/")
    assert build.steps[1] == Copy(("a.txt", "b.txt"), "/data/")
    assert (
        isinstance(build.steps[2], Run)
        and build.steps[2].command.startswith("pip install -e .")
        and build.steps[2].workdir == "/testbed/sub"
    )
    assert build.steps[3].command == "echo 'a b'"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("FROM a\nFROM b\n", 2),
        ("FROM a\nUSER agent\n", 2),
        ("FROM a\n\nCOPY --from=b /x /y\n", 3),
        ("FROM a\nADD https://example.com/x /y\n", 2),
        ("FROM a\nCOPY ../secret /y\n", 2),
        ("FROM a\nONBUILD RUN x\n", 2),
        ("RUN x\n", 1),
        ("", 1),
    ],
)
def test_what_is_refused_names_its_line(tmp_path, text, line):
    with pytest.raises(SwerlError, match=f"SWERL-T020.*Dockerfile:{line}"):
        parsed(tmp_path, text)
