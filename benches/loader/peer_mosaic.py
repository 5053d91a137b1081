"""MosaicML Streaming: MDS shards, shuffled by blocks. Arguments: `work.py`."""

import streaming
import work


def make(pictures, data: str) -> None:
    columns = {"picture": "bytes", "label": "int"}
    with streaming.MDSWriter(out=data, columns=columns, compression=None) as out:
        for _, label, picture in pictures:
            out.write({"picture": picture, "label": label})


class Dataset(streaming.StreamingDataset):
    """A dataset that decodes as it reads."""

    def __init__(self, data: str, mode: str) -> None:
        super().__init__(local=data, shuffle=True, shuffle_seed=work.SEED, batch_size=work.BATCH_ROWS)
        self.decode = work.decoder(mode)

    def __getitem__(self, at):
        row = super().__getitem__(at)
        return self.decode(row["picture"]), row["label"]


def load(data: str, workers: int, mode: str):
    # Shared memory of an earlier loader of this process must be gone.
    streaming.base.util.clean_stale_shared_memory()
    return streaming.StreamingDataLoader(
        Dataset(data, mode), batch_size=work.BATCH_ROWS, num_workers=workers, collate_fn=work.collate
    )


work.run(make, load)
