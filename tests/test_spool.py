"""An entry of the spool is whole or not there, has one owner, and outlives it."""

import errno
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import ROOT

from handwriting.errors import StoreError
from handwriting.spool import Spool, open_spool, remove

OWNER = """
import os, signal, sys
from pathlib import Path
from handwriting.spool import Spool

spool = Spool(Path(sys.argv[1]))
for number in range(3):
    spool.put(f"entry-{number}", bytes([number]) * 10)
(spool._own / ".half").write_bytes(b"half")
print("ready", flush=True)
sys.stdin.read()
"""
"""A process that puts three entries and half of another one, and waits."""


@pytest.fixture
def owner(tmp_path):
    """A living process with entries in the spool."""
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT / "ops" / "shared")})
    assert process.stdout.readline() == b"ready\n"
    yield process
    process.kill()
    process.communicate()


def test_entries_of_a_living_process_are_its_own_and_those_of_a_killed_one_are_adopted_once(owner, tmp_path):
    spools = [Spool(tmp_path), Spool(tmp_path)]
    assert [spool.adopt() for spool in spools] == [[], []]
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    adopted = [spool.adopt() for spool in spools]
    assert [entry.path.name for entry in adopted[0]] == ["entry-0", "entry-1", "entry-2"]
    assert [entry.path.read_bytes() for entry in adopted[0]] == [bytes([number]) * 10 for number in range(3)]
    assert [entry.size for entry in adopted[0]] == [10] * 3
    assert adopted[1] == [] and spools[0].adopt() == []
    assert not list(tmp_path.glob("*/.half"))  # nobody was told that it is kept


def test_what_an_adopter_did_not_get_done_is_adopted_again(owner, tmp_path):
    owner.kill()
    owner.wait()
    first = Spool(tmp_path)
    for entry in first.adopt()[:2]:
        remove(entry)
    first.close()
    second = Spool(tmp_path)
    [entry] = second.adopt()
    assert entry.path.name == "entry-2"
    remove(entry)
    second.close()
    third = Spool(tmp_path)
    assert third.adopt() == []
    third.close()
    assert list(tmp_path.iterdir()) == []  # nothing piles up


def test_a_closed_spool_leaves_its_entries_to_the_next(tmp_path):
    first, second = Spool(tmp_path), Spool(tmp_path)
    put = first.put("a", b"1")
    assert second.adopt() == []
    first.close()
    [entry] = second.adopt()
    assert (entry.path, entry.size) == (put.path, 1) and abs(entry.since - put.since) < 1


def test_an_entry_removed_twice_or_by_hand_is_no_error(tmp_path):
    entry = Spool(tmp_path).put("a", b"1")
    remove(entry)
    remove(entry)


def test_what_is_kept_is_for_this_user_alone(tmp_path):
    entry = open_spool("s3://b/data", str(tmp_path / "spool")).put("a", b"1")
    assert [path.stat().st_mode & 0o077 for path in (entry.path.parent, entry.path.parent.parent)] == [0, 0]


def test_each_target_has_a_spool_of_its_own_and_relative_folders_are_told_apart(tmp_path, monkeypatch):
    folders = {open_spool(target, str(tmp_path)).folder for target in ("s3://b/data", "s3://c/data", "data")}
    monkeypatch.chdir(tmp_path)
    folders.add(open_spool("data", str(tmp_path)).folder)
    assert len(folders) == 4
    assert open_spool("s3://b/data", str(tmp_path)).folder in folders


def test_without_a_folder_it_is_among_the_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert open_spool("s3://b/data").folder.parent == tmp_path / f"handwriting-spool-{os.getuid()}"


def test_a_folder_that_cannot_be_made_is_told_with_what_to_do(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=f"{re.escape(str(tmp_path / 'file'))}.*--spool or SPOOL"):
        open_spool("s3://b/data", str(tmp_path / "file"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for very little."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_a_full_disk_takes_no_entry_leaves_no_part_and_takes_the_next_one_when_there_is_room(small_disk):
    spool = Spool(small_disk / "spool")
    first = spool.put("first", bytes(40_000))
    with pytest.raises(OSError) as caught:
        spool.put("second", bytes(40_000))
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in spool._own.iterdir()] == ["first"]
    remove(first)
    assert spool.put("second", bytes(40_000)).path.stat().st_size == 40_000


def test_a_disk_that_is_full_at_the_start_is_no_error_and_later_there_may_be_room(small_disk, caplog):
    filler = small_disk / "filler"
    with pytest.raises(OSError), open(filler, "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    for number in range(100):  # the last inodes
        try:
            (small_disk / str(number)).mkdir()
        except OSError:
            break
    spool = Spool(small_disk / "spool")
    assert spool.adopt() == []
    with pytest.raises(OSError):
        spool.put("a", bytes(4096))
    filler.unlink()
    assert Path(spool.put("a", bytes(4096)).path).exists()


LIMITED = """
import resource, sys
from pathlib import Path
from handwriting.spool import Spool

spool = Spool(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
spool.put("small", bytes(1000))
try:
    spool.put("large", bytes(1001))
except OSError as error:
    print(error.errno, *sorted(path.name for path in spool._own.iterdir()))
"""


def test_any_other_refusal_of_the_system_leaves_no_part_either(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT / "ops" / "shared")})
    assert done.stdout.split() == [str(errno.EFBIG), "small"]
