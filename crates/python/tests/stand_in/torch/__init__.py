"""Stands in for PyTorch where that is not installed: as much of it as tells whether `cenote.torch` keeps its promises to workers."""

from torch import distributed as distributed
from torch import utils as utils
