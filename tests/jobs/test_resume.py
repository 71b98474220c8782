"""Jobs that are ended at any moment go on, and lose nothing.

RELPROP_KILLS says how many jobs are killed: 6 by default, for the time; 25 for a longer look.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("zarr", reason="stores are an extra")

import relprop
from relprop import jobs
from relprop.jobs import _disk
from relprop.rules import Epsilon, Zero

pytestmark = pytest.mark.frameworks

KILLS = int(os.environ.get("RELPROP_KILLS", "6"))
W = np.linspace(-1, 1, 64, dtype=np.float32)
KILLER = """
import os, pathlib, random, signal, sys, threading, time
import jax, jax.numpy as jnp, numpy as np
from relprop import jobs
from relprop.jobs import _job
from relprop.rules import Zero

folder, kills = pathlib.Path(sys.argv[1]), int(sys.argv[2])
digits = np.random.default_rng(0).normal(size=(2000, 64)).astype(np.float32)
digits[17, 3] = np.nan

def job(out, fate, moment, per_chunk):
    _job.KEPT_AFTER = 0.0
    def die(last=None):
        if last is not None:
            os.ftruncate(last, os.fstat(last).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    left, fsync, replace = int(moment), os.fsync, pathlib.Path.replace
    def dying(what):
        def called(*args):
            nonlocal left
            left -= 1
            if left == 0:
                is_file = what is fsync and os.path.isfile(f"/proc/self/fd/{args[0]}")
                die(args[0] if is_file else None)
            return what(*args)
        return called
    if fate == "write":
        os.fsync = dying(fsync)
    if fate == "rename":
        pathlib.Path.replace = dying(replace)
    if fate == "time":
        threading.Timer(moment, die).start()
    w = jnp.linspace(-1, 1, 64)
    jobs.explain(
        lambda x: jnp.sum(jax.nn.relu(x * w)), Zero(), digits, out, 64, progress=False,
        reductions={"sum": jobs.Total()}, batches_per_chunk=per_chunk,
    )

def run(*args):  # a fork, before JAX has begun anything, spares the imports
    child = os.fork()
    if not child:
        try:
            job(*args)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

begin = time.time()
for per_chunk in (1, 5):
    assert run(folder / f"whole-{per_chunk}", "", 0, per_chunk) == 0
took = time.time() - begin
for number in range(kills):
    chance, fate = random.Random(number), ("write", "rename", "time")[number % 3]
    moment = chance.uniform(0.2, 1) * took if fate == "time" else chance.randrange(1, 120)
    per_chunk = (1, 5)[number % 2]
    ended = run(folder / str(number), fate, moment, per_chunk)
    assert ended in (0, -signal.SIGKILL), ended
    print(fate, ended, flush=True)
    assert run(folder / str(number), "", 0, per_chunk) == 0
"""


def contents(folder):
    """All files by name, but for locks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".lock")
    }


def test_killed_and_resumed(tmp_path):
    """The store comes out as that of a job that nobody has killed, bit for bit, file for file."""
    environment = {**os.environ, "PYTHONPATH": str(Path(relprop.__file__).parents[1])}
    command = [sys.executable, "-c", KILLER, str(tmp_path), str(KILLS)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert ended.returncode == 0, ended.stderr
    killed = [line for line in ended.stdout.splitlines() if line.endswith("-9")]
    assert len(killed) > KILLS // 2 and {"write", "rename"} <= {line.split()[0] for line in killed}
    wholes = [contents(tmp_path / f"whole-{per_chunk}") for per_chunk in (1, 5)]
    assert len(wholes[0]) > 3 * len(wholes[1])  # files
    assert relprop.load(tmp_path / "whole-5").is_complete
    for number in range(KILLS):
        there, expected = contents(tmp_path / str(number)), wholes[number % 2]
        assert there.keys() == expected.keys()
        assert all(there[name] == expected[name] for name in expected)


# In this process, where it costs little


def score(x):
    return (x * W).sum()


X = np.random.default_rng(0).normal(size=(30, 64)).astype(np.float32)


def explain(out, source=X, rules=None, size=4, function=score, **options):
    rules = Zero() if rules is None else rules
    options.setdefault("batches_per_chunk", 1)
    return jobs.explain(function, rules, source, out, size, progress=False, **options)


class Stop(BaseException):
    pass


class Ending:
    """A source that ends the job at some sample, once."""

    def __init__(self, at, how=Stop, of=X):
        self.at, self.how, self.of = at, how, of

    def __len__(self):
        return len(self.of)

    def __getitem__(self, i):
        if i == self.at:
            self.at = None
            self.how_it_ends()
        return self.of[i]

    def how_it_ends(self):
        raise self.how()


@pytest.mark.parametrize("per_chunk", [1, 3, None])
@pytest.mark.parametrize("at", [0, 1, 13, 29])
def test_ended_by_whatever(tmp_path, at, per_chunk):
    source = Ending(at)
    with pytest.raises(Stop):
        explain(tmp_path / "a", source, batches_per_chunk=per_chunk)
    explain(tmp_path / "a", source, batches_per_chunk=per_chunk)
    found = explain(tmp_path / "b", batches_per_chunk=per_chunk)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    np.testing.assert_allclose(np.asarray(found.relevance), X * W, rtol=1e-6)


def test_batches_of_a_chunk_that_is_not_full_are_kept(tmp_path):
    """They are neither explained nor read again, and no damage to them is."""
    read = []

    class Counting(Ending):
        def __getitem__(self, i):
            read.append(i)
            return super().__getitem__(i)

    source = Counting(17)
    rest = tmp_path / "a" / "manifest" / "rest-00000.npz"
    for damage in (False, True):
        source.at = 17
        with pytest.raises(Stop):
            explain(tmp_path / "a", source, batches_per_chunk=None)
        kept = rest.read_bytes()
        if damage:
            rest.write_bytes(kept[: len(kept) // 2])
    read.clear()
    with pytest.raises(Stop):
        source.at = 21
        explain(tmp_path / "a", source, batches_per_chunk=None)
    assert read == [*range(22)]
    read.clear()
    explain(tmp_path / "a", source, batches_per_chunk=None)
    assert read == [0, 1, 2, 3, *range(20, 30)]  # the first batch tells the shape
    assert not rest.exists()
    explain(tmp_path / "b", batches_per_chunk=None)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_chunks_of_several_shapes(tmp_path):
    """Whatever ends it, the same samples are in the same files."""
    samples = [np.full((1 + i % 3, 64), 1 + i, np.float32) for i in range(40)]
    samples[:3] = ["not numbers"] * 3
    source = Ending(33, of=samples)
    options = {"size": 2, "batches_per_chunk": 3, "function": lambda x: (x * W[None]).sum()}
    with pytest.raises(Stop):
        explain(tmp_path / "a", source, **options)
    explain(tmp_path / "a", source, **options)
    found = explain(tmp_path / "b", samples, **options)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert set(found.errors) == {0, 1, 2}
    for i in range(3, 40):
        np.testing.assert_allclose(found.relevance[i], samples[i] * W, rtol=1e-6)


@pytest.mark.parametrize("at", [0, 13])
def test_interrupted(tmp_path, at):
    """Ctrl-C ends it when the batch at hand is committed, and says how to go on."""
    source = Ending(at)
    source.how_it_ends = lambda: os.kill(os.getpid(), signal.SIGINT)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="run the same again to go on"):
        explain(tmp_path / "a", source, size=1)
    assert signal.getsignal(signal.SIGINT) is before
    explain(tmp_path / "a", source, size=1)
    explain(tmp_path / "b", size=1)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_an_iterator_that_fails(tmp_path):
    def failing():
        yield from X[:10]
        raise OSError("the network is gone")

    with pytest.raises(relprop.JobError, match="failed after 10 samples: OSError: the network"):
        explain(tmp_path / "a", failing())
    found = explain(tmp_path / "a", iter(X))
    assert found.is_complete and len(found) == 30
    np.testing.assert_allclose(np.asarray(found.relevance), X * W, rtol=1e-6)


def test_it_can_be_read_while_it_is_written(tmp_path):
    with pytest.raises(Stop):
        explain(tmp_path / "a", Ending(17))
    found = relprop.load(tmp_path / "a")
    assert len(found) == 30 and not found.is_complete
    done = np.flatnonzero(found.done)
    np.testing.assert_allclose(found.relevance[done], X[done] * W, rtol=1e-6)
    assert "not complete" in repr(found) and f"{len(done)} of 30" in repr(found)
    assert f"mean score: {np.asarray(found.score[done]).mean():.6g}" in repr(found)
    with pytest.raises(relprop.InputError, match="not explained yet"):
        found.relevance[29]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"rules": Epsilon(0.1)}, "the rules"),
        ({"size": 5}, "batch_size"),
        ({"batches_per_chunk": 2}, "batches_per_chunk"),
        ({"source": X[:-1]}, "length"),
        ({"reductions": {"sum": jobs.Total()}}, "reductions"),
        ({"function": lambda x: (x * W[::-1]).sum()}, "another"),
        ({"function": lambda x: (x * W).sum() + 1}, "another"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_another_job_is_refused(tmp_path, options, what):
    explain(tmp_path / "a")
    before = contents(tmp_path / "a")
    with pytest.raises(relprop.JobError, match=what):
        explain(tmp_path / "a", **options)
    assert contents(tmp_path / "a") == before


def test_other_parameters_are_refused(tmp_path):
    def function(params, x):
        return (params * x).sum()

    explain(tmp_path / "a", function=function, params=W)
    with pytest.raises(relprop.JobError, match="the parameters"):
        explain(tmp_path / "a", function=function, params=W + 1)


def test_a_constant_of_the_function_is_part_of_it(tmp_path):
    def of(w):
        def function(x):
            return (x * w).sum()

        return function

    explain(tmp_path / "a", function=of(W))
    with pytest.raises(relprop.JobError, match="a constant in it"):
        explain(tmp_path / "a", function=of(W + 1))
    explain(tmp_path / "a", function=of(W.copy()))


def test_two_jobs_on_one_store(tmp_path):
    """The second one is refused while the first one is at work, which can then be gone on with."""
    source = Ending(13)
    source.how_it_ends = lambda: explain(tmp_path / "a")
    with pytest.raises(relprop.JobError, match="Another process is writing"):
        explain(tmp_path / "a", source)
    assert explain(tmp_path / "a", source).is_complete


def test_damage(tmp_path):
    """A chunk that is cut is an error that names it, and is mended by the same call."""
    explain(tmp_path / "a")
    whole = contents(tmp_path / "a")
    chunk = tmp_path / "a" / "Zero" / "relevance" / "c.2.0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(relprop.InputError, match=r"c\.2\.0 .*damaged"):
        relprop.load(tmp_path / "a").relevance[9]
    explain(tmp_path / "a")
    np.testing.assert_array_equal(chunk.read_bytes(), whole["Zero/relevance/c.2.0"])
    chunk.unlink()
    found = explain(tmp_path / "a")
    np.testing.assert_allclose(np.asarray(found.relevance), X * W, rtol=1e-6)


def summed(out, source=X, **options):
    """With a reduction, whose state is committed with each chunk."""
    return explain(out, source, reductions={"sum": jobs.Total()}, **options)


def stopped(out, at, **options):
    with pytest.raises(Stop):
        summed(out, Ending(at), **options)


@pytest.mark.parametrize("chunk", [0, 3, 7])
def test_what_is_repaired_counts_once_in_reductions(tmp_path, chunk):
    whole = summed(tmp_path / "a").reductions["sum"]
    for _ in range(2):  # what was repaired may be damaged again
        (tmp_path / "a" / "Zero" / "relevance" / f"c.{chunk}.0").unlink()
        found = summed(tmp_path / "a")
        np.testing.assert_array_equal(found.reductions["sum"], whole)


def test_the_state_after_a_repair_overwrites_none(tmp_path, monkeypatch):
    """A process that is killed after a state and before its line has not counted a chunk twice."""
    whole = summed(tmp_path / "b").reductions["sum"]
    stopped(tmp_path / "a", 17)
    (tmp_path / "a" / "Zero" / "relevance" / "c.0.0").unlink()
    stopped(tmp_path / "a", 17)

    def killed(*args):
        raise Stop

    monkeypatch.setattr(_disk.Folder, "append", killed)
    with pytest.raises(Stop):
        summed(tmp_path / "a")
    monkeypatch.undo()
    np.testing.assert_array_equal(summed(tmp_path / "a").reductions["sum"], whole)


def test_a_chunk_that_could_not_be_committed_is_in_its_turn(tmp_path, monkeypatch):
    append, left = _disk.Folder.append, [1]

    def failing(*args):
        left[0] -= 1
        if left[0] < 0:
            raise relprop.JobError("the disk has failed")
        append(*args)

    monkeypatch.setattr(_disk.Folder, "append", failing)
    with pytest.raises(relprop.JobError, match="the disk has failed"):
        summed(tmp_path / "a", batches_per_chunk=2)
    monkeypatch.undo()
    summed(tmp_path / "a", batches_per_chunk=2)
    summed(tmp_path / "b", batches_per_chunk=2)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_no_manifest(tmp_path):
    explain(tmp_path / "a")
    whole = contents(tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "manifest")
    assert not relprop.load(tmp_path / "a").done.any()
    explain(tmp_path / "a")
    assert contents(tmp_path / "a") == whole


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_line_of_the_manifest_that_is_cut(tmp_path, cut):
    explain(tmp_path / "a")
    whole = contents(tmp_path / "a")
    manifest = tmp_path / "a" / "manifest" / "00000.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-cut])
    explain(tmp_path / "a")
    assert contents(tmp_path / "a") == whole


def test_a_damaged_line(tmp_path):
    explain(tmp_path / "a")
    manifest = tmp_path / "a" / "manifest" / "00000.jsonl"
    manifest.write_bytes(b"{not json}\n" + manifest.read_bytes())
    with pytest.raises(relprop.InputError, match="damaged line"):
        relprop.load(tmp_path / "a")


def test_another_major_version(tmp_path):
    explain(tmp_path / "a")
    header = tmp_path / "a" / "zarr.json"
    text = json.loads(header.read_text())
    text["attributes"]["relprop-jobs"]["version"] = [2, 0]
    header.write_text(json.dumps(text))
    with pytest.raises(relprop.InputError, match=r"version 2\.0"):
        relprop.load(tmp_path / "a")


def test_what_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(relprop.InputError, match="something else"):
        explain(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    (tmp_path / "drafts").mkdir()
    (tmp_path / "drafts" / ".thesis.tex.0.part").write_text("what an editor has saved")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(relprop.InputError, match="something else"):
        explain(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_vanishes(tmp_path):
    source = Ending(13)

    def vanish():
        while (tmp_path / "a").exists():  # a file may come while others are removed
            shutil.rmtree(tmp_path / "a", ignore_errors=True)

    source.how_it_ends = vanish
    with pytest.raises(relprop.JobError, match="is gone.*run the same again"):
        explain(tmp_path / "a", source)
    assert not (tmp_path / "a").exists()
    assert explain(tmp_path / "a", source).is_complete


def test_a_vanished_folder_is_not_made_again(tmp_path):
    disk = _disk.disk_of(tmp_path / "a")
    with pytest.raises(relprop.JobError, match="is gone"):
        disk.make("relevance/c")
    assert not (tmp_path / "a").exists()
    disk.begin()
    disk.make("relevance/c")
    disk.make("relevance/c")
    assert (tmp_path / "a" / "relevance" / "c").is_dir()


def test_a_full_disk(tmp_path, monkeypatch):
    write, left = _disk._write, [9]

    def full(path, data):
        left[0] -= 1
        if left[0] < 0:
            path.write_bytes(data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(_disk, "_write", full)
    with pytest.raises(relprop.JobError, match="no space left.*run the same again"):
        explain(tmp_path / "a")
    monkeypatch.undo()
    explain(tmp_path / "a")
    explain(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("per_chunk", [1, 16])
def test_a_disk_that_is_really_full(small_disk, tmp_path, per_chunk):
    """It ends with a message, what is there can be read, and with more room it goes on."""
    many = np.random.default_rng(1).normal(size=(2000, 64)).astype(np.float32)
    filler, out = small_disk / "filler", small_disk / "a"
    filler.write_bytes(bytes(2**19))
    with pytest.raises(relprop.JobError, match="no space left.*run the same again"):
        explain(out, many, size=64, batches_per_chunk=per_chunk)
    found = relprop.load(out)
    done = np.flatnonzero(found.done)
    assert 0 < len(done) < 2000 and not found.is_complete
    np.testing.assert_allclose(found.relevance[done], many[done] * W, rtol=1e-6)
    filler.unlink()
    explain(out, many, size=64, batches_per_chunk=per_chunk)
    explain(tmp_path / "b", many, size=64, batches_per_chunk=per_chunk)
    assert contents(out) == contents(tmp_path / "b")


def test_processes_take_turns(tmp_path, monkeypatch):
    """Each explains every n-th batch, and what one has left undone nobody else does."""
    import jax

    monkeypatch.setattr(jax, "process_count", lambda: 3)
    reductions = {"sum": jobs.Total()}
    for per_chunk in (1, 2):
        take_turns(tmp_path / str(per_chunk), monkeypatch, reductions, per_chunk)
    with pytest.raises(relprop.InputError, match="must have a length"):
        explain(tmp_path / "b", iter(X))
    monkeypatch.undo()
    assert explain(tmp_path / "c").is_complete


def take_turns(out, monkeypatch, reductions, per_chunk):
    import jax

    for process in (2, 0, 0, 1):
        monkeypatch.setattr(jax, "process_index", lambda p=process: p)
        found = explain(out, reductions=reductions, batches_per_chunk=per_chunk)
        lines = (out / "manifest" / f"{process:05d}.jsonl").read_text().splitlines()
        chunks = [json.loads(line)["chunk"] for line in lines if "chunk" in line]
        assert chunks == [*range(process, 8 // per_chunk, 3)]
        assert found.is_complete == (process == 1)
    np.testing.assert_allclose(np.asarray(found.relevance), X * W, rtol=1e-6)
    np.testing.assert_allclose(found.reductions["sum"], (X * W).sum(0, dtype=np.float64))


def test_another_number_of_processes(tmp_path, monkeypatch):
    """What one process has kept of a chunk that is another's by now is explained by that."""
    import jax

    def run(process, processes, source=X):
        monkeypatch.setattr(jax, "process_index", lambda: process)
        monkeypatch.setattr(jax, "process_count", lambda: processes)
        return explain(tmp_path / "a", source, batches_per_chunk=3)

    with pytest.raises(Stop):
        run(0, 1, Ending(21))  # in the middle of the second chunk
    run(0, 2)
    found = run(1, 2)
    assert found.is_complete
    np.testing.assert_allclose(np.asarray(found.relevance), X * W, rtol=1e-6)


def test_what_more_processes_have_kept_is_removed(tmp_path, monkeypatch):
    import jax

    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(Stop):
        explain(tmp_path / "a", Ending(21), batches_per_chunk=3)
    assert (tmp_path / "a" / "manifest" / "rest-00001.npz").exists()
    monkeypatch.undo()
    assert explain(tmp_path / "a", batches_per_chunk=3).is_complete
    assert not [*tmp_path.rglob("rest-*")]
