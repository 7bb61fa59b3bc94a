"""Line-search optimizers for plain PyTorch; this package imports torch only.

`LineSearchOptimizer` composes six rules, one module each: along what (`direction`), which steps are acceptable
(`criterion`), where a search starts (`initial_step`), how a rejected step shrinks (`backtracking`), on which steps to
search (`cadence`) and which groups one search moves (`partition`). The named optimizers (`family`) are compositions.
"""

from .backtracking import Backtracking, SearchResult
from .cadence import Adaptive, Budget, Cadence, EveryStep
from .criterion import Armijo, Criterion, Line
from .direction import Adam, Direction, Gradient
from .family import SGDSLS, AdamSLS
from .initial_step import InitialStep, LastStep
from .optimizer import LineSearchOptimizer, SearchReport
from .partition import Joint, Partition
from .random_state import RandomState
from .registry import OPTIMIZERS, RECOMMENDED, create_optimizer

__all__ = [
    "OPTIMIZERS",
    "RECOMMENDED",
    "SGDSLS",
    "Adam",
    "AdamSLS",
    "Adaptive",
    "Armijo",
    "Backtracking",
    "Budget",
    "Cadence",
    "Criterion",
    "Direction",
    "EveryStep",
    "Gradient",
    "InitialStep",
    "Joint",
    "LastStep",
    "Line",
    "LineSearchOptimizer",
    "Partition",
    "RandomState",
    "SearchReport",
    "SearchResult",
    "create_optimizer",
]
