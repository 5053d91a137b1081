"""LitData: chunks of 64 MB, shuffled. Arguments: `work.py`."""

import litdata
import work
from litdata.streaming.writer import BinaryWriter

CHUNK_BYTES = 64 << 20


def make(pictures, data: str) -> None:
    writer = BinaryWriter(data, chunk_bytes=CHUNK_BYTES)
    for number, label, picture in pictures:
        writer[number] = {"picture": picture, "label": label}
    writer.done()
    writer.merge()


def load(data: str, workers: int, mode: str):
    decode = work.decoder(mode)
    dataset = litdata.StreamingDataset(
        data, shuffle=True, seed=work.SEED, transform=lambda row: (decode(row["picture"]), row["label"])
    )
    return litdata.StreamingDataLoader(
        dataset, batch_size=work.BATCH_ROWS, num_workers=workers, collate_fn=work.collate, shuffle=True
    )


work.run(make, load)
