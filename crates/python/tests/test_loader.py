"""The loader: exactness, whatever the shapes; and that it survives forks, threads and what is wrong."""

from __future__ import annotations

import asyncio
import io
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import threading
import types
from pathlib import Path

import numpy
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings, strategies

import cenote
from cenote import op
from cenote.errors import InvalidInputError


def ids(batches) -> list[int]:
    return [int(id) for batch in batches for id in batch["id"]]


@pytest.fixture(scope="module")
def shared_lake():
    with cenote.open(tempfile.mkdtemp(), create=True, memory="512 MiB") as lake:
        yield lake


tables: dict[int, cenote.Table] = {}


def table_of(lake: cenote.Lake, rows: int) -> cenote.Table:
    if rows not in tables:
        tables[rows] = lake.create_table(f"t{rows}", {"id": int}, primary_key="id")
        tables[rows].upsert({"id": range(rows)})
    return tables[rows]


shapes = strategies.tuples(strategies.integers(1, 12), strategies.integers(1, 4), strategies.integers(1, 3))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=strategies.sampled_from([1, 2, 13, 64, 101]),
    seed=strategies.integers(0, 2**63),
    first=shapes,
    second=shapes,
    stop=strategies.floats(0, 1),
    change=strategies.booleans(),
)
def test_any_shape_resumes_what_any_other_left(shared_lake, rows, seed, first, second, stop, change) -> None:
    table = table_of(shared_lake, rows)
    shuffle = cenote.Shuffle(seed=seed)
    columns = ["id"]
    version = table.version

    def readers(shape, state=None):
        batch, world, workers = shape
        made = []
        for rank in range(world):
            loader = table.loader(
                columns, batch_size=batch, rank=rank, world_size=world, shuffle=shuffle, version=version, output="numpy"
            )
            if state is not None:
                loader.load_state_dict(state)
            made.append([loader.shard(worker, workers) for worker in range(workers)])
        return made

    whole = ids(table.loader(columns, shuffle=shuffle, version=version, output="numpy"))
    assert sorted(whole) == list(range(rows)) or change
    ranks = readers(first)
    steps = sum(loader.batches_left for loader in ranks[0])
    taken: list[int] = []
    for step in range(round(stop * steps)):
        for workers in ranks:
            taken += ids([next(iter(workers[step % len(workers)]))])
    state = cenote.merge_states([loader.state_dict() for loader in ranks[0]])
    if change:
        table.upsert({"id": [rows - 1]})
        table.fold()
    rest: list[int] = []
    for workers in readers(second, state):
        for loader in workers:
            rest += ids(loader)
    assert taken == whole[: len(taken)]
    assert sorted(rest) == sorted(whole[len(taken) :])


def jpeg(colour: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> bytes:
    image = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    image.new("RGB", size, colour).save(out, "JPEG", quality=95)
    return out.getvalue()


@pytest.fixture
def photos(lake: cenote.Lake) -> cenote.Table:
    table = lake.create_table("photos", {"id": int, "picture": cenote.Image, "label": "int32"}, primary_key="id")
    table.upsert([{"id": id, "picture": jpeg((id * 20, 0, 255 - id * 20)), "label": id % 3} for id in range(12)])
    return table


TRANSFORM = [cenote.op.decode_image(), cenote.op.random_resized_crop(16), cenote.op.normalize((0, 0, 0), (1, 1, 1))]


def test_pictures_become_float_tensors(photos: cenote.Table) -> None:
    batch = next(iter(photos.loader(batch_size=12, transform=TRANSFORM, output="numpy")))
    assert batch["picture"].shape == (12, 3, 16, 16)
    assert batch["picture"].dtype == numpy.float32
    assert list(batch["label"]) == [id % 3 for id in range(12)]
    for id, picture in zip(batch["id"], batch["picture"], strict=True):
        expected = numpy.array([id * 20, 0, 255 - id * 20]) / 255
        assert numpy.abs(picture.mean(axis=(1, 2)) - expected).max() < 0.02


def test_a_sample_looks_the_same_whoever_loads_it(photos: cenote.Table) -> None:
    def pictures(**shape):
        seen = {}
        version = photos.version
        for batch in photos.loader(
            shuffle=cenote.Shuffle(3), transform=TRANSFORM, output="numpy", version=version, **shape
        ):
            seen.update({int(id): picture.tobytes() for id, picture in zip(batch["id"], batch["picture"], strict=True)})
        return seen

    alone = pictures(batch_size=5)
    shared = {**pictures(batch_size=2, rank=0, world_size=2), **pictures(batch_size=2, rank=1, world_size=2)}
    assert alone == shared


def test_a_bad_picture_is_named_or_zero(photos: cenote.Table) -> None:
    photos.upsert([{"id": 5, "picture": b"no picture"}])
    with pytest.raises(InvalidInputError, match="row with key 5, column `picture`"):
        list(photos.loader(transform=TRANSFORM))
    batch = next(iter(photos.loader(transform=TRANSFORM, on_error="zero", output="numpy")))
    assert [row for row, _ in batch.errors] == [5]
    assert not batch["picture"][5].any()
    assert batch["picture"][4].any()


def test_tensors_speak_dlpack_and_share_memory(photos: cenote.Table) -> None:
    batch = next(iter(photos.loader(transform=TRANSFORM)))
    tensor = batch["picture"]
    assert tensor.__dlpack_device__() == (1, 0)
    one, two = numpy.from_dlpack(tensor), numpy.asarray(tensor)
    assert one.__array_interface__["data"][0] == two.__array_interface__["data"][0]
    del batch, tensor
    assert one.sum() == two.sum()
    assert batch_column_is_arrow(photos)


def batch_column_is_arrow(photos: cenote.Table) -> bool:
    batch = next(iter(photos.loader(["picture", "id"], batch_size=1, output="arrow")))
    return batch["id"].to_pylist() == [0] and batch["picture"].to_pylist()[0].startswith(b"\xff\xd8")


def test_batches_go_to_other_processes(photos: cenote.Table, numbers: cenote.Table) -> None:
    made = next(iter(photos.loader(batch_size=5, transform=TRANSFORM)))
    sent = pickle.loads(pickle.dumps(made))
    assert (sent.epoch, sent.step, sent.rows) == (made.epoch, made.step, 5)
    for name in ("picture", "label"):
        assert sent[name].dtype == made[name].dtype and sent[name].shape == made[name].shape
        assert numpy.array_equal(numpy.asarray(sent[name]), numpy.asarray(made[name]))
    words = next(iter(numbers.loader(["word", "at"], batch_size=5)))
    sent = pickle.loads(pickle.dumps(words))
    assert sent["word"].to_pylist() == words["word"].to_pylist() == [f"w{id}" for id in range(5)]
    assert numpy.asarray(sent["at"]).tolist() == [[id, -id] for id in range(5)]
    rows = numbers.read(where="id < 3")
    assert pickle.loads(pickle.dumps(rows)).to_pylist() == rows.to_pylist()


def test_a_tensor_of_another_process_is_its_owners_to_change(lake: cenote.Lake) -> None:
    table = lake.create_table("bytes", {"id": int, "byte": "uint8"}, primary_key="id")
    table.upsert({"id": [1], "byte": [7]})
    numbers = numpy.asarray(pickle.loads(pickle.dumps(next(iter(table.loader(["byte"])))["byte"])))
    numbers[0] = 9
    # Python has one object for all bytes of one value.
    assert bytes([7])[0] == 7


def test_a_child_of_a_fork_goes_on_where_its_copy_stands(numbers: cenote.Table) -> None:
    loader = numbers.loader(["id"], batch_size=10, shuffle=cenote.Shuffle(1), output="numpy")
    first = ids([next(iter(loader))])
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            rest = ids(loader)
            os.write(
                write, repr((rest, numbers.get(3)["word"], numbers.lake.sql("SELECT 1 AS a").to_pylist())).encode()
            )
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        rest, word, one = eval(pipe.read() or b"None")
    assert os.waitpid(child, 0)[1] == 0
    assert (word, one) == ("w3", [{"a": 1}])
    assert sorted(first + rest) == list(range(100))
    assert sorted(first + ids(loader)) == list(range(100))


def test_a_loader_is_pickled_where_it_stands(numbers: cenote.Table) -> None:
    loader = numbers.loader(["id"], batch_size=30, output="numpy")
    next(iter(loader))
    assert ids(pickle.loads(pickle.dumps(loader))) == list(range(30, 100))


def test_threads_that_share_an_epoch_never_run_into_the_next(numbers: cenote.Table) -> None:
    loader = numbers.loader(["id"], batch_size=1, output="numpy")
    for epoch in range(3):
        batches = iter(loader)
        seen: list[tuple[int, int]] = []

        def read(batches=batches, seen=seen) -> None:
            seen.extend((batch.epoch, int(batch["id"][0])) for batch in batches)
            # Whoever asks once more is told so again.
            assert next(batches, None) is None

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(seen) == [(epoch, id) for id in range(100)]


def test_a_cancelled_task_loses_no_batch(numbers: cenote.Table) -> None:
    loader = numbers.loader(["id"], batch_size=1, output="numpy")

    async def read() -> list[int]:
        seen, batches = [], aiter(loader)
        for turn in range(60):
            task = asyncio.ensure_future(anext(batches))
            for _ in range(turn % 3):
                await asyncio.sleep(0)
            task.cancel()
            try:
                seen += ids([await task])
            except asyncio.CancelledError:
                assert loader.state_dict()["batches"] == len(seen)
        return seen + ids([batch async for batch in batches])

    assert asyncio.run(read()) == list(range(100))


def test_a_batch_that_did_not_arrive_does_not_count(numbers: cenote.Table, monkeypatch, ctrl_c) -> None:
    loader = numbers.loader(["id"], batch_size=30, output="numpy")
    batches, convert, seen = iter(loader), loader._convert, []

    def fails(native):
        raise ValueError("the GPU is full")

    def is_interrupted(native):
        signal.raise_signal(signal.SIGINT)
        return convert(native)

    for broken, error in ((fails, ValueError), (is_interrupted, KeyboardInterrupt)):
        monkeypatch.setattr(loader, "_convert", broken)
        with pytest.raises(error):
            next(batches)
        monkeypatch.setattr(loader, "_convert", convert)
        assert loader.state_dict()["batches"] * 30 == len(seen)
        seen += ids([next(batches)])
    assert seen + ids(batches) == list(range(100))


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64 - 1, numpy.uint64(2**64 - 1), numpy.int8(-5), 0])
def test_every_seed_of_64_bits_is_an_order_of_its_own(numbers: cenote.Table, seed) -> None:
    order = ids(numbers.loader(["id"], shuffle=cenote.Shuffle(seed), output="numpy"))
    assert sorted(order) == list(range(100)) != order
    named = numbers.loader(["id"], shuffle=cenote.Shuffle(int(seed) % 2**64), output="numpy")
    assert ids(named) == order
    assert named.state_dict()["shuffle"]["seed"] == int(seed) % 2**64
    assert ids(numbers.loader(["id"], shuffle=cenote.Shuffle(12345), output="numpy")) != order


@pytest.mark.parametrize(
    ("shuffle", "error"),
    [
        (7, TypeError),
        (0, TypeError),
        ("yes", TypeError),
        (cenote.Shuffle(1.5), TypeError),
        (cenote.Shuffle(True), TypeError),
    ]
    + [(cenote.Shuffle(2**64), InvalidInputError), (cenote.Shuffle(-(2**63) - 1), InvalidInputError)],
)
def test_what_is_no_shuffle_is_refused(numbers: cenote.Table, shuffle, error) -> None:
    with pytest.raises(error, match="shuffle is|a seed|integer"):
        numbers.loader(shuffle=shuffle)


def in_child(work) -> object:
    """What `work` answers in a child of a fork."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, repr(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = eval(pipe.read() or b"None")
    os.waitpid(child, 0)
    return answer


def test_a_loader_reads_the_version_that_it_was_opened_on_in_every_process(numbers: cenote.Table) -> None:
    numbers.tag("release")
    loaders = [numbers.loader(["id"], output="numpy", version=version) for version in (None, "tag:release")]
    numbers.upsert({"id": [100]})
    numbers.untag("release")
    numbers.tag("release")
    for loader in loaders:
        assert in_child(lambda loader=loader: len(ids(loader))) == 100
        assert len(ids(pickle.loads(pickle.dumps(loader)))) == 100
        assert len(ids(loader)) == 100
    # Where nothing is left that could be read at the newest version, the one that was opened still is.
    late = numbers.loader(["id"], output="numpy")
    numbers.delete(where="id >= 0")
    assert in_child(lambda: len(ids(late))) == 101


def test_a_child_goes_on_with_an_iterator_of_its_parent(numbers: cenote.Table) -> None:
    loader = numbers.loader(["id"], batch_size=30, output="numpy")
    assert len(ids(loader)) == 100
    batches = iter(loader)
    next(batches)
    assert in_child(lambda: ids(batches)) == list(range(30, 100)) == ids(batches)


def test_children_start_threads_while_those_of_their_parent_wait(numbers: cenote.Table) -> None:
    def read(threads: int) -> list[list[int]]:
        return [ids(numbers.loader(["id"], batch_size=10, threads=threads, output="numpy")) for _ in range(8)]

    # Each is as far ahead as it may be, and its threads wait.
    waiting = [iter(numbers.loader(["id"], batch_size=1, output="numpy", prefetch="1 KiB")) for _ in range(8)]
    assert [next(batches)["id"].tolist() for batches in waiting] == [[0]] * 8
    for threads in (4, 8, 16, 32, 64):
        assert in_child(lambda threads=threads: read(threads)) == [list(range(100))] * 8


def test_following_reads_the_newest_version_in_every_epoch(numbers: cenote.Table) -> None:
    loader = numbers.loader(["id"], follow=True, output="numpy")
    for epoch in range(3):
        loader.set_epoch(epoch)
        assert loader.epoch_rows == 100 + epoch
        assert len(ids(loader)) == 100 + epoch
        numbers.upsert({"id": [100 + epoch]})
        # Leaving an epoch in its middle makes no difference.
        loader.set_epoch(7)
        next(iter(loader))


def test_ranks_agree_on_a_version_or_say_that_they_cannot(numbers: cenote.Table, monkeypatch) -> None:
    def opened(rank: int, **options) -> cenote.Loader:
        return numbers.loader(["id"], rank=rank, world_size=2, output="numpy", **options)

    for read in (
        lambda loader: next(iter(loader)),
        lambda loader: loader.take([1]),
        lambda loader: next(iter(loader.shard(0, 2))),
    ):
        with pytest.raises(InvalidInputError, match="rank 1 of 2 has no way to agree"):
            read(opened(1))
    with pytest.raises(InvalidInputError, match="rank 1 of 2"):
        next(iter(pickle.loads(pickle.dumps(opened(1)))))
    version = numbers.version
    first = ids(opened(0, version=version))
    state = opened(0, version=version).state_dict()
    numbers.upsert({"id": range(100, 200)})
    loaded = opened(1)
    loaded.load_state_dict(state)
    assert sorted(first + ids(loaded)) == list(range(100))
    # With torch.distributed it is what rank 0 says.
    said: list[list[int]] = []

    class Distributed:
        rank = 0

        def broadcast_object_list(self, objects: list, src: int) -> None:
            assert src == 0
            said.append(objects[0]) if self.rank == 0 else objects.__setitem__(0, said[-1])

        def get_rank(self) -> int:
            return self.rank

        get_world_size = staticmethod(lambda: 2)
        is_available = is_initialized = staticmethod(lambda: True)

    distributed = Distributed()
    data = types.SimpleNamespace(get_worker_info=lambda: None)
    torch = types.SimpleNamespace(distributed=distributed, utils=types.SimpleNamespace(data=data))
    monkeypatch.setitem(sys.modules, "torch", torch)
    for follow in (False, True):
        seen: list[int] = []
        loaders = []
        for distributed.rank in range(2):
            loaders.append(numbers.loader(["id"], follow=follow, output="numpy"))
            seen += ids([next(iter(loaders[-1]))])
            numbers.upsert({"id": [1000 + len(loaders) + 10 * follow]})
        for distributed.rank in range(2):
            seen += ids(loaders[distributed.rank])
        assert sorted(seen) == list(range(200)) + [1001, 1002] * follow
        if follow:
            expected = len(numbers)
            again = []
            for distributed.rank in range(2):
                again += ids(loaders[distributed.rank])
                numbers.upsert({"id": [2000 + distributed.rank]})
            assert len(set(again)) == len(again) == expected
            with pytest.raises(InvalidInputError, match="no way to agree"):
                monkeypatch.setattr(distributed, "is_initialized", lambda: False)
                next(iter(loaders[1]))


def test_rank_and_world_size_come_from_the_environment(numbers: cenote.Table, monkeypatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    version = numbers.version
    assert len(ids(numbers.loader(["id"], version=version, output="numpy"))) == 25
    assert numbers.loader(["id"], version=version).state_dict()["world_size"] == 4
    assert len(ids(numbers.loader(["id"], rank=0, world_size=1, output="numpy"))) == 100
    with pytest.raises(InvalidInputError, match="come together"):
        numbers.loader(rank=2)
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(InvalidInputError, match="RANK and WORLD_SIZE are numbers, found 'one'"):
        numbers.loader()


@pytest.mark.parametrize("output", ["numpy", "tensor"])
def test_a_column_with_nulls_has_one_type_and_a_mask(lake: cenote.Lake, output) -> None:
    kinds = {
        "half": pa.float16(),
        "single": pa.float32(),
        "double": pa.float64(),
        "tiny": pa.uint8(),
        "whole": pa.int64(),
    }
    fields = [pa.field(name, kind) for name, kind in kinds.items()]
    lists = [("at", pa.list_(pa.float32(), 2)), ("pair", pa.list_(pa.int32(), 2))]
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False), *fields, *lists, ("note", pa.string())])
    table = lake.create_table("t", schema, primary_key="id")
    rows = [{"id": id, **{name: None if id % 5 == 4 else id for name in kinds}} for id in range(20)]
    for row in rows:
        row["at"] = None if row["id"] in (3, 12) else [row["id"], 0.5]
        row["pair"] = {5: None, 7: [None, 1]}.get(row["id"], [row["id"], 1])
    table.upsert(rows)
    ats = pairs = 0
    for batch in table.loader(batch_size=4, output=output):
        assert set(batch.valid) == {*kinds, "at", "pair"}
        for name, kind in kinds.items():
            values, valid = numpy.asarray(batch[name]), numpy.asarray(batch.valid[name])
            assert (
                values.dtype == kind.to_pandas_dtype() and values.shape == valid.shape == (4,) and valid.dtype == bool
            )
            assert valid.tolist() == [id % 5 != 4 for id in batch["id"].tolist()] if output == "numpy" else True
            assert values[valid].tolist() == [id for id in numpy.asarray(batch["id"]).tolist() if id % 5 != 4]
            nothing = values[~valid]
            assert numpy.isnan(nothing).all() if values.dtype.kind == "f" else (nothing == 0).all()
        at, valid = numpy.asarray(batch["at"]), numpy.asarray(batch.valid["at"])
        assert at.shape == (4, 2) and at.dtype == numpy.float32
        assert (numpy.isnan(at).any(axis=1) == ~valid).all()
        ats += int(valid.sum())
        pairs += int(numpy.asarray(batch.valid["pair"]).sum())
    # A list with a number missing counts as missing.
    assert (ats, pairs) == (18, 18)
    kept = next(iter(table.loader(batch_size=20, output="arrow")))
    assert kept["whole"].to_pylist() == [None if id % 5 == 4 else id for id in range(20)] and not kept.valid


def test_a_row_that_comes_again_in_an_epoch_looks_different(photos: cenote.Table, lake: cenote.Lake) -> None:
    image = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    image.effect_noise((64, 48), 90).convert("RGB").save(out, "PNG")
    table = lake.create_table("noise", {"id": int, "picture": cenote.Image, "label": "int32"}, primary_key="id")
    table.upsert([{"id": 99, "picture": out.getvalue(), "label": 0}])

    def epoch(batch_size: int, epoch: int = 0) -> list[bytes]:
        sources = [cenote.Source(table, weight=3.0), cenote.Source(photos, weight=1.0)]
        loader = cenote.loader(
            *sources,
            batch_size=batch_size,
            shuffle=cenote.Shuffle(5),
            transform=TRANSFORM,
            epoch_rows=16,
            output="numpy",
        )
        loader.set_epoch(epoch)
        return [
            picture.tobytes()
            for batch in loader
            for id, picture in zip(batch["id"], batch["picture"], strict=True)
            if id == 99
        ]

    first = epoch(16)
    assert len(first) == 12 == len(set(first))
    assert epoch(5) == first
    assert not set(epoch(16, 1)) & set(first)


def test_asyncio_and_the_next_epoch(numbers: cenote.Table) -> None:
    loader = numbers.loader(["id"], batch_size=30, shuffle=True, output="numpy")

    async def read() -> list[int]:
        return ids([batch async for batch in loader])

    first, second = asyncio.run(read()), asyncio.run(read())
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second
    assert loader.epoch == 2
    assert loader.stats()["rows"] == 200


def test_map_style_rows_by_number(numbers: cenote.Table) -> None:
    loader = numbers.loader(["id"], output="numpy")
    assert list(loader.take([5, 3, 5])["id"]) == [5, 3, 5]
    with pytest.raises(InvalidInputError, match="no row 100"):
        loader.take([100])


def test_who_counts_batches_gets_the_next_epoch_too(numbers: cenote.Table) -> None:
    loader = numbers.loader(["id"], batch_size=30, shuffle=True, output="numpy")

    def counted() -> list[int]:
        batches = iter(loader)
        return ids(next(batches) for _ in range(len(loader)))

    first, second = counted(), counted()
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second
    # Of the state after the last batch nothing is left of that epoch.
    other = numbers.loader(["id"], batch_size=30, shuffle=True, output="numpy")
    other.load_state_dict(loader.state_dict())
    assert ids(other) == []
    assert sorted(ids(other)) == list(range(100))


LONG = bool(os.environ.get("CENOTE_LONG"))


def resident_kib() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def test_batches_do_not_pile_up_in_memory(numbers: cenote.Table) -> None:
    loader = numbers.loader(["id", "at"], batch_size=1, output="numpy")

    def epochs(count: int) -> int:
        for _ in range(count):
            for _ in loader:
                pass
        return resident_kib()

    before = epochs(20)
    # Of 100 batches each: a million in a long run.
    assert epochs(10_000 if LONG else 40) - before < 16 << 10


def test_what_is_opened_and_forgotten_leaves_nothing_behind(tmp_path, numbers: cenote.Table) -> None:
    cenote.open(tmp_path / "other", create=True).create_table("t", {"id": int}, primary_key="id").upsert(
        {"id": range(10)}
    )

    def opened(count: int) -> tuple[int, int, int]:
        for _ in range(count):
            with cenote.open(tmp_path / "other", memory="256 MiB") as lake:
                assert len(lake["t"]) == 10
            loader = numbers.loader(["id"], batch_size=7)
            next(iter(loader))
            del loader, lake
        return resident_kib(), len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    memory, files, threads = opened(20)
    memory_now, files_now, threads_now = opened(500 if LONG else 40)
    assert memory_now - memory < 16 << 10
    assert files_now <= files + 4 and threads_now <= threads + 4


CONSUMER = """
import sys, time, cenote
loader = cenote.open(sys.argv[1])["numbers"].loader(batch_size=3, shuffle=True)
next(iter(loader))
print("training", flush=True)
time.sleep(60)
"""


def test_a_killed_consumer_leaves_nothing_behind(numbers: cenote.Table) -> None:
    def files() -> set[Path]:
        return {path for place in (numbers.lake.location, "/dev/shm") for path in Path(place).rglob("*")}

    before = files()
    with subprocess.Popen([sys.executable, "-c", CONSUMER, numbers.lake.location], stdout=subprocess.PIPE) as consumer:
        assert consumer.stdout and consumer.stdout.readline() == b"training\n"
        consumer.kill()
    assert files() == before
    # Nor a lock.
    assert numbers.upsert({"id": [100]})["inserted"] == 1


@pytest.fixture
def texts(lake: cenote.Lake) -> cenote.Table:
    """Row n has n tokens, all of them n."""
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("tokens", pa.list_(pa.int32()))])
    table = lake.create_table("texts", schema, primary_key="id")
    table.upsert(pa.table({"id": range(30), "tokens": [[id] * id for id in range(30)]}, schema=schema))
    return table


def test_packed_sequences_are_all_there_and_resume_exactly(texts: cenote.Table) -> None:
    def open_loader(batch_size: int) -> cenote.Loader:
        pack = {"tokens": [cenote.op.pack(16, pad=-5)]}
        return texts.loader(batch_size=batch_size, shuffle=cenote.Shuffle(3), transform=pack, output="numpy")

    def counts(batches) -> dict[int, int]:
        """How often each token came, each under the row that it is of."""
        seen: dict[int, int] = {}
        for batch in batches:
            tokens, rows = batch["tokens"], batch["tokens_row"]
            assert tokens.shape == rows.shape and tokens.shape[1] == 16 and tokens.dtype == numpy.int64
            assert (tokens[rows < 0] == -5).all() and (rows < 0).sum() < 16
            assert (batch["id"][rows[rows >= 0]] == tokens[rows >= 0]).all()
            for token in tokens[rows >= 0].tolist():
                seen[token] = seen.get(token, 0) + 1
        return seen

    loader = open_loader(7)
    first = counts([next(iter(loader)), next(iter(loader))])
    other = open_loader(4)
    other.load_state_dict(loader.state_dict())
    rest = counts(other)
    assert not first.keys() & rest.keys()
    assert first | rest == {id: id for id in range(1, 30)}


@pytest.mark.parametrize(
    ("transform", "says"),
    [
        ({"tokens": [cenote.op.pack(0)]}, "found 0"),
        ({"id": [cenote.op.pack(8)]}, "`id` holds lists of whole numbers"),
        ({"words": [cenote.op.pack(8)]}, "no column `words`"),
        ({"tokens": [cenote.op.pack(8), cenote.op.pack(8)]}, "holds no pictures"),
    ],
)
def test_what_cannot_be_packed_is_refused(texts: cenote.Table, transform, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        texts.loader(transform=transform)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rank": 0, "world_size": 0}, "rank is 0 and world_size is 0"),
        ({"world_size": 2}, "come together"),
        ({"epoch_rows": "many"}, "epoch_rows is a whole number"),
        ({"follow": 1}, "follow is true or false"),
        ({"last": 5}, "last is a text"),
        ({"rank": 2, "world_size": 2}, "rank is 2 and world_size is 2"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": -1}, "batch_size is a whole number"),
        ({"where": "id > 1000"}, "no rows to load"),
        ({"last": "skip"}, "short, drop or pad"),
        ({"output": "list"}, "output is"),
        ({"device": "cuda"}, "a device needs"),
        ({"transform": TRANSFORM}, "one media column, found none"),
        ({"transform": {"word": TRANSFORM}}, "holds no pictures"),
        ({"version": "yesterday"}, "is not a version"),
        ({"where": "nonsense >"}, "filter"),
    ],
)
def test_what_makes_no_loader_is_refused(numbers: cenote.Table, options, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        numbers.loader(**options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": True}, "batch_size is a whole number, 0 or more, found True"),
        ({"batch_size": 1.5}, "batch_size is a whole number, 0 or more, found 1.5"),
        ({"rank": "first", "world_size": 2}, "rank is a whole number, 0 or more, found 'first'"),
        ({"threads": "all"}, "threads is a whole number, 0 or more, found 'all'"),
        ({"columns": [1]}, "columns is a list of names, found [1]"),
        ({"prefetch": True}, "prefetch is a size such as 256 MiB, found True"),
        ({"prefetch": "3 parsecs"}, "prefetch: `3 parsecs` is not a byte size: write it like 512 MiB, 1 GiB or 4096"),
        ({"shuffle": cenote.Shuffle(window=-1)}, "window is a size such as 256 MiB, found -1"),
        ({"buckets": 5}, "buckets is cenote.Buckets, found 5"),
        ({"buckets": cenote.Buckets("id", window=None)}, "buckets: window is a whole number, 0 or more, found None"),
        ({"buckets": cenote.Buckets("id", run="x")}, "buckets: run is a whole number, 0 or more, found 'x'"),
        ({"on_error": "ignore"}, "on_error is raise or zero, found ignore"),
        ({"transform": {"id": ["resize"]}}, "a transform is one of those in cenote.op, found 'resize'"),
        ({"transform": {"id": [op.Transform("paint")]}}, "a transform is one of those in cenote.op, found paint()"),
        ({"transform": {"id": [op.resize(-5)]}}, "resize: height is a whole number of pixels, found -5"),
        ({"transform": {"id": [op.pack(1 << 40)]}}, "pack: length is a whole number of 32 bits, found 1099511627776"),
        ({"transform": {"id": [op.normalize(mean=[1, 2])]}}, "mean is three numbers, for red, green and blue"),
        ({"transform": {"id": [op.random_resized_crop(8, scale=(1,))]}}, "scale is two numbers, from and to"),
        ({"transform": {"id": [op.random_horizontal_flip("x")]}}, "probability is a number from 0 to 1, found 'x'"),
    ],
)
def test_an_option_of_another_type_is_refused_by_its_name(numbers: cenote.Table, options, says: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(says)):
        numbers.loader(**options)


def test_the_refusal_of_an_option_keeps_its_cause(numbers: cenote.Table) -> None:
    with pytest.raises(InvalidInputError) as refused:
        numbers.loader(batch_size="many")
    assert isinstance(refused.value.__cause__, TypeError)


def test_states_of_others_are_refused(numbers: cenote.Table) -> None:
    loader = numbers.loader(shuffle=cenote.Shuffle(1))
    with pytest.raises(InvalidInputError, match="seed 2"):
        numbers.loader(shuffle=cenote.Shuffle(2)).load_state_dict(loader.state_dict())
    with pytest.raises(InvalidInputError, match="no state of a loader"):
        loader.load_state_dict({"epoch": 1})


def test_batches_of_about_one_length(shared_lake: cenote.Lake) -> None:
    lengths = numpy.random.default_rng(3).integers(0, 400, 600)
    table = shared_lake.create_table("lengths", {"id": int, "text": str}, primary_key="id")
    table.upsert([{"id": row, "text": "x" * int(length)} for row, length in enumerate(lengths)])

    def epoch(buckets) -> list[list[int]]:
        loader = table.loader(["id"], batch_size=8, shuffle=cenote.Shuffle(seed=1), buckets=buckets, output="numpy")
        return [list(batch["id"]) for batch in loader]

    def spread(batches: list[list[int]]) -> int:
        return sum(int(lengths[batch].max() - lengths[batch].min()) for batch in batches)

    by_length, plain = epoch(cenote.Buckets("text", window=200, run=8)), epoch(None)
    assert sorted(sum(by_length, [])) == list(range(600))
    assert spread(by_length) * 10 < spread(plain)
    # By name alone: all in one window.
    assert spread(epoch("text")) * 10 < spread(plain)
    with pytest.raises(InvalidInputError, match="a run has one row or more"):
        table.loader(["id"], buckets=cenote.Buckets("text", window=4, run=8))


def test_clips_become_tensors(lake: cenote.Lake) -> None:
    video = (Path(__file__).parents[2] / "cli/tests/media/clip.mp4").read_bytes()
    videos = lake.create_table("videos", {"id": int, "video": bytes}, primary_key="id")
    videos.upsert([{"id": id, "video": video} for id in range(3)])
    steps = [cenote.op.decode_video(4), cenote.op.resize((12, 16))]
    batch = next(iter(videos.loader(transform={"video": steps}, output="numpy")))
    clips = batch["video"]
    assert clips.shape == (3, 4, 12, 16, 3) and clips.dtype == numpy.uint8
    assert (clips[0] == clips[1]).all() and clips.any()
    normal = [*steps, cenote.op.normalize((0, 0, 0), (1, 1, 1))]
    floats = next(iter(videos.loader(transform={"video": normal}, output="numpy")))["video"]
    assert floats.shape == (3, 4, 3, 12, 16)
    assert numpy.abs(floats.transpose(0, 1, 3, 4, 2) * 255 - clips).max() < 1e-3
    # A random clip is the same for whoever loads the sample, and another one in the next epoch.
    anywhere = [cenote.op.decode_video(2, every=0.04, random=True), cenote.op.resize((12, 16))]
    one, two = (videos.loader(batch_size=size, transform={"video": anywhere}, output="numpy") for size in (1, 3))
    first = [clip for batch in one for clip in batch["video"]]
    assert all((a == b).all() for a, b in zip(first, next(iter(two))["video"], strict=True))
    videos.upsert([{"id": 9, "video": b"no video"}])
    with pytest.raises(InvalidInputError, match="key 9.*not a video"):
        list(videos.loader(transform={"video": steps}, output="numpy"))
    with pytest.raises(InvalidInputError, match="1 to 1024 frames"):
        videos.loader(transform={"video": [cenote.op.decode_video(0), cenote.op.resize((12, 16))]})
