"""File transfer: what goes in comes out, and nothing a sandbox sends is written outside its target."""

import os
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swerl.trials.sandboxes.received import files, inside, printable, read_file, remove
from swerl.trials.sandboxes.tree import Unpacker, UnsafeEntry, pack


def entry(kind, name, body=b"", mode=0o644, size=None):
    raw = name.encode()
    return struct.pack("<cIQH", kind, mode, len(body) if size is None else size, len(raw)) + raw + body


def unpack(target, *entries, single=False):
    unpacker = Unpacker(target, single)
    try:
        for data in entries:
            unpacker.feed(data)
        return unpacker.close()
    except BaseException:
        unpacker.abort()
        raise


def test_a_tree_goes_through_whole(tmp_path):
    source = tmp_path / "in"
    (source / "a" / "b").mkdir(parents=True)
    (source / "a" / "b" / "f").write_bytes(os.urandom(200_000))
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)
    (source / "a" / "link").symlink_to("b/f")
    received = unpack(tmp_path / "out", *[piece for piece in pack(source) if not piece.endswith(b"\x01\x00.")])
    assert (tmp_path / "out" / "a" / "b" / "f").read_bytes() == (source / "a" / "b" / "f").read_bytes()
    assert (tmp_path / "out" / "run.sh").stat().st_mode & 0o777 == 0o755
    assert received.links == (("a/link", "b/f"),) and not os.path.lexists(tmp_path / "out" / "a" / "link")
    again = b"".join(pack(tmp_path / "out", received.links))
    assert again.endswith(entry(b"l", "a/link", b"b/f", mode=0o777))
    assert set(received.written) == {"a", "a/b", "a/b/f", "a/link", "run.sh"}


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 40), min_size=1, max_size=200), body=st.binary(max_size=300))
def test_the_stream_may_be_cut_anywhere(tmp_path_factory, cuts, body):
    target = tmp_path_factory.mktemp("out")
    stream = entry(b"d", "d") + entry(b"f", "d/f", body) + entry(b"l", "d/l", b"f") + entry(b"f", "g", b"") + entry(b"x", "gone")
    unpacker, at = Unpacker(target, single=False), 0
    for cut in [*cuts, len(stream)]:
        unpacker.feed(stream[at : at + cut])
        at += cut
    received = unpacker.close()
    assert (target / "d" / "f").read_bytes() == body
    assert received.gone == ("gone",)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "", ".", "d/" * 200 + "f"])
def test_names_that_leave_the_target_are_refused(tmp_path, name):
    with pytest.raises(UnsafeEntry):
        unpack(tmp_path / "out", entry(b"f", name, b"x"))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("link", ["/etc/passwd", "../x", "a/../../x", "a/../../../etc"])
def test_links_that_point_outside_are_left_out_and_named(tmp_path, link):
    received = unpack(tmp_path / "out", entry(b"l", "l", link.encode()))
    assert received.refused == (f"l -> {link}",) and not os.path.lexists(tmp_path / "out" / "l")
    assert received.links == () and received.written == ()


def test_a_link_through_a_link_is_refused_though_its_text_stays_inside(tmp_path):
    up = entry(b"l", "d/e/up", b"../..")
    received = unpack(tmp_path / "out", entry(b"d", "d"), entry(b"d", "d/e"), entry(b"l", "x", b"d/e/up/../../etc/passwd"), up)
    assert received.links == (("d/e/up", "../.."),) and received.refused == ("x -> d/e/up/../../etc/passwd",)
    received = unpack(tmp_path / "lib", entry(b"f", "so.1.2", b"x"), entry(b"l", "so.1", b"so.1.2"), entry(b"l", "so", b"so.1"))
    assert dict(received.links) == {"so.1": "so.1.2", "so": "so.1"}  # a link to a link, as libraries have them


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "outside").mkdir()
    out = tmp_path / "out"
    out.mkdir()
    (out / "dir").symlink_to("../outside")
    with pytest.raises(UnsafeEntry):
        unpack(out, entry(b"f", "dir/f", b"x"))
    unpack(out, entry(b"d", "here"), entry(b"l", "inner", b"../outside"), entry(b"f", "inner/f", b"x"))  # a directory of ours, by then
    assert list((tmp_path / "outside").iterdir()) == []
    (out / "file").symlink_to("../outside/target")
    unpack(out, entry(b"f", "file", b"x"))  # the link itself is replaced
    assert not (tmp_path / "outside" / "target").exists() and (out / "file").read_bytes() == b"x"


def test_set_id_bits_and_devices_do_not_come_along(tmp_path):
    unpack(tmp_path / "out", entry(b"f", "f", b"x", mode=0o6755))
    assert (tmp_path / "out" / "f").stat().st_mode & 0o7000 == 0
    with pytest.raises(UnsafeEntry):
        unpack(tmp_path / "out", entry(b"b", "dev"))


def test_a_stream_that_stops_early_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="inside an entry"):
        unpack(tmp_path / "out", entry(b"f", "f", b"abc", size=10))


def test_one_file_takes_the_name_it_was_asked_for(tmp_path):
    unpack(tmp_path / "renamed", entry(b"f", "file", b"x"), single=True)
    assert (tmp_path / "renamed").read_bytes() == b"x"


def test_a_name_has_one_spelling_and_a_place_one_content(tmp_path):
    """As archives of an agent's making could have it: a file under two spellings, a link that became a directory, a file a link."""
    received = unpack(
        tmp_path / "out", entry(b"f", "a//./f", b"1"), entry(b"f", "a/f", b"2"), entry(b"l", "d", b"a"), entry(b"f", "d/g", b"3")
    )
    assert received.written == ("a/f", "a/f", "d", "d/g") and received.links == ()
    received = unpack(tmp_path / "more", entry(b"f", "f", b"1"), entry(b"l", "f", b"g"))
    assert received.links == (("f", "g"),) and list(files(tmp_path / "more")) == []
    with pytest.raises(UnsafeEntry, match="replace a directory"):
        unpack(tmp_path / "out", entry(b"l", "a", b"d"))


def test_a_received_tree_is_read_and_cleared_through_no_link(tmp_path):
    """Not even where there should be none."""
    outside, tree = tmp_path / "outside", tmp_path / "tree"
    for place in (outside, tree / "d"):
        place.mkdir(parents=True)
        (place / "f").write_text(str(place))
    (tree / "up").symlink_to("..")
    (tree / "out").symlink_to(outside)
    (tree / "file").symlink_to(outside / "f")
    os.mkfifo(tree / "pipe")
    reached = ("up/outside/f", "out/f", "file", "../outside/f", str(outside / "f"), "pipe", "d", "d/../../outside/f", "", ".", "a\0b")
    assert [read_file(tree, name, 1000) for name in reached] == [None] * len(reached)
    assert read_file(tree, "d/f", 1000) == str(tree / "d").encode() and read_file(tree, "d/f", 3) is None
    assert list(files(tree)) == [("d/f", len(str(tree / "d")))]
    remove(tree, ["up/outside", "out/f", "..", "d/..", "../outside", str(outside), "", "nothing"])
    assert (outside / "f").is_file() and (tree / "d" / "f").is_file()
    remove(tree, ["out", "file", "pipe", "d"])
    assert [path.name for path in tree.iterdir()] == ["up"] and (outside / "f").is_file()


@pytest.mark.parametrize("target", ["b", "./b", "../x/b", "d/e", "b/", "d/./e/.."])
def test_links_that_stay(target):
    assert inside({"x/a": target}) == {"x/a": target}


@pytest.mark.parametrize(
    "target", ["", "/", "/etc", "..", "../..", "../../b", "b/../../..", "a\0", "/".join("a" * 300), "l/..", "l/x", "l/."]
)
def test_links_that_do_not_stay(target):
    assert inside({"a": target, "l": "d"}) == {"l": "d"}


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_printable_names_are_text_that_a_terminal_shows_and_differ_where_names_do(one, other):
    for name in (one, one + "\udcff", one + "\ud800"):
        assert printable(name).isprintable() and printable(name).encode() is not None
    assert (printable(one) == printable(other)) == (one == other)
    assert printable("a\udcff\n\x1b\\") == "a\\xff\\n\\x1b\\\\"
