"""Files and folders are whole or absent, whatever fails while they are written."""

import errno
import hashlib
import os
import stat

import pytest

from c2s.common import files
from c2s.common.errors import C2SError, UsageError
from c2s.common.files import atomic_directory, atomic_file, sha256


def everything_in(folder):
    return sorted(p.name for p in folder.rglob("*"))


def write_half(writer, error=None):
    """Write half of a file, or of a folder, with a writer and fail there."""
    with writer as path:
        (path / "new" if path.is_dir() else path).write_text("half")
        if error is not None:
            raise error


@pytest.fixture
def umask_022():
    old = os.umask(0o022)
    yield
    os.umask(old)


def fail_replace(monkeypatch, number, at_call):
    """Let the n-th os.replace fail with an error number."""
    real, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == at_call:
            raise OSError(number, os.strerror(number))
        real(source, target)

    monkeypatch.setattr(files.os, "replace", replace)
    return calls


def test_file_appears_whole_with_the_suffix_of_the_target(tmp_path, umask_022):
    target = tmp_path / "cells.h5ad"
    with atomic_file(target) as path:
        assert path.parent == tmp_path
        assert path.suffix == ".h5ad"
        path.write_text("half")
        assert not target.exists()
    assert target.read_text() == "half"
    assert everything_in(tmp_path) == ["cells.h5ad"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


def test_file_replaces_an_old_one_only_at_the_end(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with atomic_file(str(target)) as path:
        path.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt(), UsageError("bad")])
def test_failure_of_the_writer_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(type(error)) as caught:
        write_half(atomic_file(target), error)
    assert caught.value is error
    assert target.read_text() == "old"
    assert everything_in(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "no space left on the disk; nothing was written there"),
        (errno.EDQUOT, "no space left on the disk"),
        (errno.EACCES, "no permission to write there"),
        (errno.EROFS, "no permission to write there"),
        (errno.EIO, "cannot be written (Input/output error)"),
    ],
)
@pytest.mark.parametrize("where", ["while writing", "while renaming"])
def test_system_errors_are_one_line_that_names_the_file(tmp_path, monkeypatch, number, says, where):
    target = tmp_path / "a.txt"
    target.write_text("old")
    if where == "while renaming":
        fail_replace(monkeypatch, number, at_call=1)
    error = OSError(number, os.strerror(number)) if where == "while writing" else None
    with pytest.raises(C2SError) as caught:
        write_half(atomic_file(target), error)
    message = str(caught.value)
    assert message.startswith(f"{target}: ")
    assert says in message
    assert "\n" not in message
    assert target.read_text() == "old"
    assert everything_in(tmp_path) == ["a.txt"]


def test_full_disk_is_found_where_the_error_has_no_number(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_disk_is_full", lambda _: True)
    for writer in (atomic_file(tmp_path / "a.h5ad"), atomic_directory(tmp_path / "d")):
        with pytest.raises(C2SError, match="no space left"):
            write_half(writer, OSError("Can't write data (file write failed)"))
    assert everything_in(tmp_path) == []


def test_an_error_without_a_number_keeps_its_words_where_there_is_space(tmp_path):
    with pytest.raises(C2SError, match=r"cannot be written \(no filter\)"):
        write_half(atomic_file(tmp_path / "a.h5ad"), OSError("no filter"))


def test_file_in_a_folder_that_does_not_exist(tmp_path):
    target = tmp_path / "missing" / "a.txt"
    says = r"missing/a\.txt: the folder .*missing does not exist"
    with pytest.raises(UsageError, match=says), atomic_file(target):
        pytest.fail("nothing must be written")
    assert everything_in(tmp_path) == []


def test_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(C2SError, match="cannot be written"), atomic_file(tmp_path / "a") as path:
        path.write_text("x")
    assert everything_in(tmp_path) == ["a"]
    assert (tmp_path / "a").is_dir()


def test_no_temporary_file_can_be_made(tmp_path, monkeypatch):
    def refuse(**kwargs):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(files.tempfile, "mkstemp", refuse)
    monkeypatch.setattr(files.tempfile, "mkdtemp", refuse)
    with pytest.raises(C2SError, match="no space left"), atomic_file(tmp_path / "a"):
        pytest.fail("nothing must be written")
    with pytest.raises(C2SError, match="no space left"), atomic_directory(tmp_path / "d"):
        pytest.fail("nothing must be written")


def test_directory_appears_whole_and_its_parents_are_made(tmp_path, umask_022):
    target = tmp_path / "runs" / "one"
    with atomic_directory(target) as folder:
        (folder / "model").mkdir()
        (folder / "model" / "w").write_text("1")
        assert not target.exists()
    assert everything_in(tmp_path / "runs") == ["model", "one", "w"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o755


def test_directory_replaces_the_old_one_and_all_that_was_in_it(tmp_path):
    target = tmp_path / "out"
    (target / "sub").mkdir(parents=True)
    (target / "sub" / "old").write_text("1")
    with atomic_directory(target) as folder:
        (folder / "new").write_text("2")
        assert (target / "sub" / "old").read_text() == "1"
    assert everything_in(tmp_path) == ["new", "out"]


@pytest.mark.parametrize("error", [RuntimeError("boom"), OSError(errno.ENOSPC, "full")])
def test_failure_leaves_the_old_directory(tmp_path, error):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("1")
    with pytest.raises((RuntimeError, C2SError)):
        write_half(atomic_directory(target), error)
    assert everything_in(tmp_path) == ["old", "out"]


@pytest.mark.parametrize("at_call", [1, 2])
def test_failure_of_the_swap_puts_the_old_directory_back(tmp_path, monkeypatch, at_call):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("1")
    calls = fail_replace(monkeypatch, errno.ENOSPC, at_call)
    with pytest.raises(C2SError, match="no space left"), atomic_directory(target) as folder:
        (folder / "new").write_text("2")
    assert len(calls) == (1 if at_call == 1 else 3)
    assert everything_in(tmp_path) == ["old", "out"]


def test_what_cannot_be_put_back_is_not_deleted(tmp_path, monkeypatch):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("1")
    real, calls = os.replace, []

    def replace(source, to):
        calls.append(to)
        if len(calls) > 1:
            raise OSError(errno.EIO, "gone")
        real(source, to)

    monkeypatch.setattr(files.os, "replace", replace)
    with pytest.raises(C2SError), atomic_directory(target) as folder:
        (folder / "new").write_text("2")
    assert [p.read_text() for p in tmp_path.rglob("old")] == ["1"]


def test_directory_never_takes_the_place_of_a_file(tmp_path):
    target = tmp_path / "results"
    target.write_text("mine")
    with pytest.raises(UsageError, match="is a file"), atomic_directory(target):
        pytest.fail("nothing must be written")
    assert target.read_text() == "mine"


def test_directory_under_a_file_is_explained(tmp_path):
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(C2SError, match="cannot be written"),
        atomic_directory(tmp_path / "file/out"),
    ):
        pytest.fail("nothing must be written")
    assert everything_in(tmp_path) == ["file"]


def test_sha256(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(range(256)) * 5000)
    assert sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
