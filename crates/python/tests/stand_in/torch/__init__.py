"""A stand-in for PyTorch where that is not installed, with the parts that tests of `cenote.torch` with workers need."""

from torch import distributed as distributed
from torch import utils as utils
