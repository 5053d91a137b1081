"""A `DataLoader` that treats datasets as PyTorch's does: workers get copies, and a seed for each iteration."""

import multiprocessing
import random
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")


class IterableDataset(Generic[Item]):
    pass


class Dataset(Generic[Item]):
    pass


class WorkerInfo(NamedTuple):
    id: int
    num_workers: int
    seed: int


_info = None


def get_worker_info():
    return _info


def _work(dataset, info, sampler, pipe):
    global _info
    _info = info
    while pipe.recv() == "iterate":
        try:
            if isinstance(dataset, IterableDataset):
                for item in dataset:
                    pipe.send(item)
            else:
                for rows in sampler[info.id :: info.num_workers]:
                    pipe.send(dataset.__getitems__(rows))
            pipe.send(None)
        except Exception as error:
            pipe.send(error)


class DataLoader:
    """Items in the order of the workers, each of which has every n-th. `sampler`: lists of rows."""

    def __init__(self, dataset, num_workers=0, multiprocessing_context="fork", persistent_workers=False, sampler=()):
        self.dataset = dataset
        self._workers = num_workers
        self._context = multiprocessing.get_context(multiprocessing_context)
        self._persistent = persistent_workers
        self._sampler = sampler
        self._pipes, self._running = [], []

    def _start(self):
        seed = random.getrandbits(62)
        for id in range(self._workers):
            mine, its = self._context.Pipe()
            info = WorkerInfo(id, self._workers, seed + id)
            worker = self._context.Process(target=_work, args=(self.dataset, info, self._sampler, its), daemon=True)
            worker.start()
            its.close()
            self._running.append(worker)
            self._pipes.append(mine)

    def _stop(self):
        for worker in self._running:
            worker.terminate()
            worker.join()
        self._pipes, self._running = [], []

    def __del__(self):
        self._stop()

    def __iter__(self):
        if not self._workers:
            yield from self.dataset
            return
        if not self._pipes:
            self._start()
        pipes = list(self._pipes)
        for pipe in pipes:
            pipe.send("iterate")
        try:
            while pipes:
                for pipe in list(pipes):
                    item = pipe.recv()
                    if isinstance(item, Exception):
                        raise item
                    pipes.remove(pipe) if item is None else (yield item)
        finally:
            if not self._persistent:
                self._stop()
