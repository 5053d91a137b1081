"""LanceDB's StreamingDataset, its transform in its own threads. Arguments: `work.py`."""

import lancedb
import pyarrow
import work
from lancedb.streaming import StreamingDataLoader, StreamingDataset

from peer_lance import SCHEMA, table


def make(pictures, data: str) -> None:
    lancedb.connect(data).create_table("pictures", pyarrow.RecordBatchReader.from_batches(SCHEMA, table(pictures)))


class Transform:
    """Decodes a batch; made anew where it is spawned."""

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
    """The loader, and the dataset that keeps its state."""

    def __init__(self, data: str, workers: int, mode: str) -> None:
        self.dataset = StreamingDataset(
            lancedb.connect(data).open_table("pictures"),
            num_splits=max(workers, 1),
            shuffle_seed=work.SEED,
            transform=Transform(mode),
        )
        self.loader = StreamingDataLoader(
            self.dataset,
            batch_size=work.BATCH_ROWS,
            num_workers=workers,
            collate_fn=work.collate,
            multiprocessing_context="spawn" if workers else None,
        )

    def __iter__(self):
        return iter(self.loader)

    def state_dict(self):
        return self.dataset.state_dict()

    def load_state_dict(self, state) -> None:
        self.dataset.load_state_dict(state)


if __name__ == "__main__":
    work.run(make, Loader)
