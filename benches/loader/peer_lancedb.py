"""LanceDB's StreamingDataset, with the transform in its own threads. Arguments: `work.py`."""

import lancedb
import pyarrow
import work
from lancedb.streaming import StreamingDataLoader, StreamingDataset

from peer_lance import SCHEMA, table


def make(pictures, data: str) -> None:
    lancedb.connect(data).create_table("pictures", pyarrow.RecordBatchReader.from_batches(SCHEMA, table(pictures)))


class Transform:
    """Decodes a batch; recreated in spawned processes."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.decode = None

    def __call__(self, batch: pyarrow.RecordBatch):
        self.decode = self.decode or work.decoder(self.mode)
        labels, pictures = batch["label"].to_pylist(), batch["picture"].to_pylist()
        return [(self.decode(picture), label) for picture, label in zip(pictures, labels, strict=True)]

    def __reduce__(self):
        return Transform, (self.mode,)


class Loader:
    """One dataset per epoch, because one that was read to its end stays there."""

    def __init__(self, data: str, workers: int, mode: str) -> None:
        self.table = lancedb.connect(data).open_table("pictures")
        self.workers = workers
        self.transform = Transform(mode)
        self.epoch = 0
        self.state = None

    def __iter__(self):
        self.dataset = StreamingDataset(
            self.table,
            num_splits=max(self.workers, 1),
            shuffle_seed=work.SEED,
            epoch=self.epoch,
            transform=self.transform,
        )
        if self.state is not None:
            self.dataset.load_state_dict(self.state)
        self.batches = iter(
            StreamingDataLoader(
                self.dataset,
                batch_size=work.BATCH_ROWS,
                num_workers=self.workers,
                collate_fn=work.collate,
                multiprocessing_context="spawn" if self.workers else None,
            )
        )
        yield from self.batches
        self.epoch += 1

    def state_dict(self):
        # With workers it has a state only after each has given the same number of samples.
        while True:
            try:
                return self.epoch, self.dataset.state_dict()
            except RuntimeError:
                next(self.batches)

    def load_state_dict(self, state) -> None:
        self.epoch, self.state = state


if __name__ == "__main__":
    work.run(make, Loader)
