# SPDX-License-Identifier: Apache-2.0
"""A reader that hangs, crashes or prints costs only itself: the next one answers, and nothing is left behind."""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fake_readers import Crashing, Greedy, Growing, Hanging, Hoarding, Leaving, Modules, Painted, Raising, Short
from waiting import PATIENCE_SECONDS, until

from vidcomp.errors import InputError
from vidcomp.video import ReaderError, Sampling, VideoReader, read_frames
from vidcomp.video.container.header import Header
from vidcomp.video.process import client
from vidcomp.video.process.client import Job, start_worker, stop_workers
from vidcomp.video.process.messages import Request

FOUR = Sampling(4)
ROOT = Path(__file__).resolve().parents[1]


def named(kind: type[VideoReader]) -> str:
    return f"{kind.__module__}:{kind.__name__}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mkv"
    path.write_bytes(b"\x1aE\xdf\xa3" + bytes(100))
    return path


def children(of: int) -> list[int]:
    found = Path(f"/proc/{of}/task").glob("*/children")
    return [int(pid) for file in found for pid in file.read_text().split()]


def decoding() -> list[int]:
    """Return the process ids of the workers."""
    return children(os.getpid())


def held(pid: int) -> list[str]:
    """Return what a process has open beside its standard streams and the socket to its parent."""
    names = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if int(link.name) > 2]
    return [name for name in names if not name.startswith("socket:")]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def failure(file: Path, kind: type[VideoReader], deadline: float = 30.0) -> InputError:
    with pytest.raises(InputError) as caught:
        read_frames(file, FOUR, readers=[named(kind)], deadline_seconds=deadline)
    return caught.value


def test_a_reader_of_another_package(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    frames = read_frames(file, FOUR, readers=[named(Painted)])
    assert frames.pixels[:, 0, 0, 0].tolist() == frames.indices.tolist() == [0, 3, 6, 9]
    assert frames.pixels.flags.writeable
    assert "pixels=4x4x6x3" in repr(frames)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [Crashing, Leaving, Raising, Greedy, Short, Growing])
def test_a_failing_reader_costs_only_itself(file: Path, kind: type[VideoReader]) -> None:
    frames = read_frames(file, FOUR, readers=[named(kind), named(Painted)])
    assert frames.info.reader == named(Painted)
    (note,) = frames.info.notes
    assert note.startswith(f"{named(kind)} failed (") and f"{named(Painted)} took over" in note


def test_a_hanging_reader_is_ended_at_its_deadline(file: Path) -> None:
    read_frames(file, FOUR, readers=[named(Painted)])  # a worker that has yet to start would take of the time
    error = failure(file, Hanging, deadline=1.0)
    assert "no answer within 1 s" in error.why
    assert error.code == "unreadable"
    assert decoding() == []


def test_a_worker_that_does_not_answer_is_ended_at_the_deadline(file: Path) -> None:
    read_frames(file, FOUR, readers=[named(Painted)])
    for worker in decoding():
        os.kill(worker, signal.SIGSTOP)
    stop_all_but_one()
    assert "took no job within 1 s" in failure(file, Painted, deadline=1.0).why
    assert decoding() == []
    assert read_frames(file, FOUR, readers=[named(Painted)]).info.reader == named(Painted)


def stop_all_but_one() -> None:
    for worker in client._POOL.idle[1:]:
        client._POOL.end(worker)


def test_a_worker_that_died_while_it_was_idle_is_replaced(file: Path) -> None:
    read_frames(file, FOUR, readers=[named(Painted)])
    for worker in decoding():
        os.kill(worker, signal.SIGKILL)
    frames = read_frames(file, FOUR, readers=[named(Painted)])
    assert frames.info.reader == named(Painted) and frames.info.notes == ()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forking with threads, which is what is tested
def test_a_forked_process_has_workers_of_its_own(file: Path) -> None:
    read_frames(file, FOUR, readers=[named(Painted)])
    with client._POOL.lock:  # as another thread may
        pid = os.fork()
        if pid == 0:
            good = read_frames(file, FOUR, readers=[named(Painted)]).info.reader == named(Painted)
            stop_workers()
            os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(read_frames(file, FOUR, readers=[named(Painted)])) == 4
    workers = decoding()
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    for worker in client._POOL.all:
        worker.close()  # as when this process ends: the other one does not keep them alive
    try:
        until(lambda: all(map(gone, workers)))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        stop_workers()


def test_no_folder_for_temporary_files_is_needed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr("tempfile.TemporaryFile", none)
    assert "KeyError" in failure(file, Raising).why
    assert read_frames(file, FOUR, readers=[named(Painted)]).info.reader == named(Painted)


@pytest.mark.parametrize("warm", [True, False], ids=["worker waits", "worker to be started"])
def test_no_free_descriptor_is_an_error_of_its_own(file: Path, warm: bool) -> None:
    read_frames(file, FOUR, readers=[named(Painted)])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    outcomes = []
    for more in range(12):
        if not warm:
            stop_workers()
        free = os.open(os.devnull, os.O_RDONLY)
        os.close(free)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, limits[1]))
            outcomes.append(str(len(read_frames(file, FOUR, readers=[named(Painted)]))))
        except InputError as error:
            outcomes.append(error.why)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    failed = outcomes.index("4")  # with enough of them, and with more, the file is read
    assert failed >= (2 if warm else 5)  # the video and the frames; and a socket, a log and a pipe of the worker's
    assert outcomes == ["Too many open files"] * failed + ["4"] * (12 - failed)


def test_every_cause_is_named(file: Path) -> None:
    assert "crashed (SIGSEGV)" in failure(file, Crashing).why
    assert "ended with status 7" in failure(file, Leaving).why
    assert "KeyError" in failure(file, Raising).why
    assert "out of memory" in failure(file, Greedy).why
    assert "3 of 4" in failure(file, Short).why
    assert "size changes" in failure(file, Growing).why


def test_library_noise_is_kept_in_the_cause(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    error = failure(file, Raising)
    assert isinstance(error.__cause__, ReaderError)
    assert "chatter on standard error" in str(error.__cause__.__cause__)
    assert capfd.readouterr() == ("", "")


def test_the_child_loads_no_model_library(file: Path) -> None:
    assert "loaded: []" in failure(file, Modules).why


def test_nothing_is_left_behind(file: Path) -> None:
    read_frames(file, FOUR, readers=[named(Painted)])
    gc.collect()
    before = descriptors(), threading.active_count(), set(os.listdir("/dev/shm"))
    for kind in (Painted, Crashing, Raising, Painted):
        read_frames(file, FOUR, readers=[named(kind), named(Painted)])
    gc.collect()
    assert (descriptors(), threading.active_count(), set(os.listdir("/dev/shm"))) == before
    assert decoding()  # one waits for the next job
    stop_workers()
    assert decoding() == []
    assert descriptors() < before[0]


def test_a_worker_goes_on_unless_it_broke_or_grew(file: Path) -> None:
    stop_workers()
    read_frames(file, FOUR, readers=[named(Painted)])
    first = decoding()
    assert len(first) == 1
    until(lambda: held(first[0]) == [])
    for _ in range(20):
        read_frames(file, FOUR, readers=[named(Painted)])
    failure(file, Short)
    assert decoding() == first
    failure(file, Raising)
    assert decoding() == []
    read_frames(file, FOUR, readers=[named(Painted)])
    (second,) = decoding()
    read_frames(file, FOUR, readers=[named(Hoarding)])
    until(lambda: gone(second))
    assert len(read_frames(file, FOUR, readers=[named(Painted)])) == 4


def test_a_job_may_be_left_at_any_message(file: Path) -> None:
    """Leaving a job early ends its worker, and never that of the next job."""
    stop_workers()
    for count in (0, 1, 2, 9):
        request = Request((named(Painted),), str(file), Header("matroska"), FOUR, None, 1 << 20)
        with open(file, "rb") as video:
            job = Job(request, video.fileno(), 30.0)
            for _ in range(count):
                job.receive()
            if count % 2:
                job.close()
            del job  # forgetting it will do
        assert len(read_frames(file, FOUR, readers=[named(Painted)])) == 4
    assert len(decoding()) == 1


def test_fewer_bytes_than_promised_are_an_error(file: Path) -> None:
    request = Request((named(Painted),), str(file), Header("matroska"), FOUR, None, 1 << 20)
    with open(file, "rb") as video:
        job = Job(request, video.fileno(), 30.0)
        with pytest.raises(ReaderError, match="fewer bytes"):
            job.array(np.uint8, [1 << 20])
        job.close()


def test_frames_stay_as_they_are_whatever_is_read_later(file: Path) -> None:
    kept = [read_frames(file, Sampling(count), readers=[named(Painted)]) for count in (4, 6, 10, 5)]
    for frames in kept:
        assert frames.pixels[:, 0, 0, 0].tolist() == frames.indices.tolist()


def test_several_threads_read_at_once(file: Path) -> None:
    results: list[int] = []

    def read() -> None:
        results.append(len(read_frames(file, FOUR, readers=[named(Painted)])))

    work = [threading.Thread(target=read) for _ in range(4)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert results == [4] * 4
    assert 1 <= len(decoding()) <= client.MOST_IDLE


def test_starting_a_worker_early_starts_one(file: Path) -> None:
    stop_workers()
    start_worker()
    first = decoding()
    start_worker()
    assert len(read_frames(file, FOUR, readers=[named(Painted)])) == 4
    assert decoding() == first and len(first) == 1


def start_stuck(file: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """A process that is stuck in a hanging reader, and the process ids of its workers."""
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from vidcomp.video import Sampling, read_frames\n"
        f"read_frames(sys.argv[1], Sampling(4), readers=['{named(Hanging)}'], deadline_seconds=36000)\n"
    )
    command = [sys.executable, "-c", code, str(file), str(ROOT), str(ROOT / "tests")]
    parent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until(lambda: any(map(reached, children(parent.pid))))
    return parent, children(parent.pid)


def reached(pid: int) -> bool:
    """The hanging reader was reached: it has written to its log just before."""
    try:
        return Path(f"/proc/{pid}/fd/2").stat().st_size > 0
    except OSError:
        return False


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return True
    return state in "ZX"  # dead, and waiting for whoever inherited it


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_child_ends_with_its_parent(file: Path, blow: signal.Signals) -> None:
    parent, others = start_stuck(file)
    try:
        parent.send_signal(blow)
        _, printed = parent.communicate(timeout=PATIENCE_SECONDS)
        until(lambda: all(map(gone, others)))
        if blow == signal.SIGINT:
            assert "KeyboardInterrupt" in printed
    finally:
        parent.kill()
