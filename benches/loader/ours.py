"""Cenote. Arguments: `work.py`."""

import cenote
import pyarrow
import work
from cenote.torch import IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader

CHUNK = 500


def make(pictures, data: str) -> None:
    with cenote.open(data, create=True) as lake:
        table = lake.create_table("pictures", {"id": int, "label": "int64", "picture": cenote.Image}, primary_key="id")
        rows = []
        for number, label, picture in pictures:
            rows.append({"id": number, "label": label, "picture": picture})
            if len(rows) == CHUNK:
                table.upsert(rows)
                rows = []
        if rows:
            table.upsert(rows)
        table.fold()
        table.compact()


class Loader:
    """Returns the loader itself without workers, and else PyTorch's `DataLoader` around it."""

    def __init__(self, data: str, workers: int, mode: str) -> None:
        transform = [
            cenote.op.decode_image(),
            cenote.op.random_resized_crop(work.SIDE),
            cenote.op.normalize(work.MEAN, work.DEVIATION),
        ]
        table = cenote.open(data)["pictures"]
        self.loader = table.loader(
            columns=["picture", "label"],
            batch_size=work.BATCH_ROWS,
            shuffle=cenote.Shuffle(work.SEED),
            transform=transform if mode == "decode" else [],
            output="torch",
        )
        self.batches = self.loader
        if workers:
            dataset = IterableDataset(self.loader)
            self.batches = StatefulDataLoader(dataset, batch_size=None, num_workers=workers)
        self.raw = mode == "raw"

    def __iter__(self):
        for batch in self.batches:
            picture = batch["picture"]
            yield pyarrow.array(picture) if self.raw else picture, batch["label"]

    def state_dict(self):
        return self.batches.state_dict()

    def load_state_dict(self, state) -> None:
        self.batches.load_state_dict(state)


work.run(make, Loader)
