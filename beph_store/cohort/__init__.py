"""Tables of labels, how they join with the slides of a store, and splits that keep patients together.

``read_labels`` → ``LabelTable`` → ``join`` → ``Cohort`` → ``k_fold``, ``monte_carlo``, ``preserved_site`` → ``Split``.
"""

from beph_store.cohort.clam_splits import SlideSplit, read_slide_splits, read_splits, write_splits
from beph_store.cohort.join import Cohort, Flow, join
from beph_store.cohort.labels import (
    ColumnChoice,
    ColumnUse,
    Dropped,
    LabelRow,
    LabelTable,
    Task,
    count_reasons,
)
from beph_store.cohort.leaks import Leak, check_split, check_splits
from beph_store.cohort.splits import k_fold, monte_carlo, preserved_site
from beph_store.cohort.tables import read_labels

__all__ = [
    "Cohort",
    "ColumnChoice",
    "ColumnUse",
    "Dropped",
    "Flow",
    "LabelRow",
    "LabelTable",
    "Leak",
    "SlideSplit",
    "Task",
    "check_split",
    "check_splits",
    "count_reasons",
    "join",
    "k_fold",
    "monte_carlo",
    "preserved_site",
    "read_labels",
    "read_slide_splits",
    "read_splits",
    "write_splits",
]
