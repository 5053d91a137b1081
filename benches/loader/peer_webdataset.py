"""WebDataset: tar files in turn, a shuffle buffer of 1,000, in torchdata's loader, which skips to its position.

Arguments: `work.py`.
"""

import glob

import webdataset
import work
from torchdata.stateful_dataloader import StatefulDataLoader

SHARD_PICTURES = 500
BUFFER = 1000


def make(pictures, data: str) -> None:
    with webdataset.ShardWriter(f"{data}/pictures-%05d.tar", maxcount=SHARD_PICTURES, verbose=0) as out:
        for number, label, picture in pictures:
            out.write({"__key__": f"{number:06}", "jpg": picture, "cls": str(label).encode()})


def load(data: str, workers: int, mode: str):
    decode = work.decoder(mode)
    shards = sorted(glob.glob(f"{data}/*.tar"))
    dataset = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=work.SEED).shuffle(BUFFER)
    dataset = dataset.to_tuple("jpg", "cls").map(lambda sample: (decode(sample[0]), int(sample[1])))
    return StatefulDataLoader(dataset, batch_size=work.BATCH_ROWS, num_workers=workers, collate_fn=work.collate)


work.run(make, load)
