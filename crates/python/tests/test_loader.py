"""The loader: exactness, whatever the shapes; and that it survives forks, threads and what is wrong."""

from __future__ import annotations

import asyncio
import io
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings, strategies

import cenote
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
            loader = table.loader(columns, batch_size=batch, rank=rank, world_size=world, shuffle=shuffle, version=version, output="numpy")
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
        for batch in photos.loader(shuffle=cenote.Shuffle(3), transform=TRANSFORM, output="numpy", **shape):
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
            os.write(write, repr((rest, numbers.get(3)["word"], numbers.lake.sql("SELECT 1 AS a").to_pylist())).encode())
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


def test_threads_share_a_loader_and_each_batch_goes_to_one(numbers: cenote.Table) -> None:
    loader = numbers.loader(["id"], batch_size=1, output="numpy")
    seen: list[int] = []
    threads = [threading.Thread(target=lambda: seen.extend(ids(loader._next() for _ in range(25)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(100))


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
    cenote.open(tmp_path / "other", create=True).create_table("t", {"id": int}, primary_key="id").upsert({"id": range(10)})

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
        ({"world_size": 0}, "rank is 0 and world_size is 0"),
        ({"rank": 2, "world_size": 2}, "rank is 2 and world_size is 2"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": -1}, "batch_size is a whole number"),
        ({"where": "id > 1000"}, "no rows to load"),
        ({"last": "skip"}, "short, drop or pad"),
        ({"output": "list"}, "output is"),
        ({"device": "cuda"}, "a device needs"),
        ({"transform": TRANSFORM}, "one media column, found none"),
        ({"transform": {"word": TRANSFORM}}, "holds no pictures"),
        ({"version": "yesterday"}, "is no version"),
        ({"where": "nonsense >"}, "filter"),
    ],
)
def test_what_makes_no_loader_is_refused(numbers: cenote.Table, options, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        numbers.loader(**options)


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
