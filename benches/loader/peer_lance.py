"""Lance's own map-style dataset for PyTorch, rows by number in random order. Arguments: `work.py`."""

import lance
import pyarrow
import torch
import work
from lance.torch.data import SafeLanceDataset
from torchdata.stateful_dataloader import StatefulDataLoader

SCHEMA = pyarrow.schema({"label": pyarrow.int64(), "picture": pyarrow.large_binary()})
CHUNK = 500


def table(pictures):
    labels, data = [], []
    for _, label, picture in pictures:
        labels.append(label)
        data.append(picture)
        if len(labels) == CHUNK:
            yield pyarrow.record_batch([labels, data], schema=SCHEMA)
            labels, data = [], []
    if labels:
        yield pyarrow.record_batch([labels, data], schema=SCHEMA)


def make(pictures, data: str) -> None:
    lance.write_dataset(pyarrow.RecordBatchReader.from_batches(SCHEMA, table(pictures)), f"{data}/pictures.lance")


def load(data: str, workers: int, mode: str):
    return StatefulDataLoader(
        SafeLanceDataset(f"{data}/pictures.lance"),
        batch_size=work.BATCH_ROWS,
        shuffle=True,
        num_workers=workers,
        # Lance's threads do not survive a fork.
        multiprocessing_context="spawn" if workers else None,
        collate_fn=Collate(mode),
        generator=torch.Generator().manual_seed(work.SEED),
    )


class Collate:
    """Decodes rows into a batch; recreated in spawned processes."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.decode = None

    def __call__(self, rows):
        self.decode = self.decode or work.decoder(self.mode)
        return work.collate([(self.decode(row["picture"]), row["label"]) for row in rows])

    def __reduce__(self):
        return Collate, (self.mode,)


if __name__ == "__main__":
    work.run(make, load)
