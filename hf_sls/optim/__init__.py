"""Line-search optimizers for plain PyTorch; this package imports torch only.

`LineSearchOptimizer` composes six rules, one module each: along what (`direction`), which steps are acceptable
(`criterion`), where a search starts (`initial_step`), how a rejected step shrinks (`backtracking`), on which steps to
search (`cadence`) and which groups one search moves (`partition`). The named optimizers (`family`) are compositions.
"""

from .backtracking import Backtracking
from .cadence import Adaptive, Always, Budget, Cadence, EveryStep
from .criterion import Armijo, Criterion, Line, NonMonotone, Smoothed
from .direction import Adagrad, Adam, Direction, Gradient
from .events import Event, LookedBack, NotSearched, Searched, SearchedElsewhere, SearchResult, Worsened
from .family import PLASLS, SGDSLS, AdagradSLS, AdamSLS, AMSGradSLS, PoNoS, SaLSa, SearchSettings, SGDSaLSa
from .initial_step import InitialStep, LastStep, LookBack, Polyak
from .layer_groups import layer_groups
from .optimizer import LineSearchOptimizer
from .partition import Cyclic, Joint, Partition
from .presets import PRESETS
from .random_state import RandomState
from .registry import OPTIMIZERS, create_optimizer
from .search import SearchReport
from .trials import FinishedSearch
from .watch import Watch

__all__ = [
    "OPTIMIZERS",
    "PLASLS",
    "PRESETS",
    "SGDSLS",
    "AMSGradSLS",
    "Adagrad",
    "AdagradSLS",
    "Adam",
    "AdamSLS",
    "Adaptive",
    "Always",
    "Armijo",
    "Backtracking",
    "Budget",
    "Cadence",
    "Criterion",
    "Cyclic",
    "Direction",
    "Event",
    "EveryStep",
    "FinishedSearch",
    "Gradient",
    "InitialStep",
    "Joint",
    "LastStep",
    "Line",
    "LineSearchOptimizer",
    "LookBack",
    "LookedBack",
    "NonMonotone",
    "NotSearched",
    "Partition",
    "PoNoS",
    "Polyak",
    "RandomState",
    "SGDSaLSa",
    "SaLSa",
    "SearchReport",
    "SearchResult",
    "SearchSettings",
    "Searched",
    "SearchedElsewhere",
    "Smoothed",
    "Watch",
    "Worsened",
    "create_optimizer",
    "layer_groups",
]
