"""How good a prediction is, and how sure that is: metrics over many weighted draws of the cases at once.

``evaluate`` gives all metrics with intervals, ``compare`` the difference of two predictors, ``curves`` and
``lifetime`` what to draw; `classification` and `survival` hold the metrics, `bootstrap` the draws. NumPy only.
"""

from beph_store.metrics.bootstrap import Estimate, draws, estimate, interval, with_point
from beph_store.metrics.classification import (
    accuracy,
    auprc,
    auprc_per_class,
    auroc,
    auroc_per_class,
    balanced_accuracy,
    brier,
    confusions,
    ece,
    f1_macro,
    f1_per_class,
    f1_weighted,
    kappa_quadratic,
    log_loss,
    recall_per_class,
)
from beph_store.metrics.compare import (
    Difference,
    compare_classes,
    compare_survival,
    delong,
    paired_bootstrap,
)
from beph_store.metrics.curves import (
    Calibration,
    PrecisionRecall,
    Roc,
    calibration_points,
    confusion_matrix,
    pr_points,
    roc_points,
)
from beph_store.metrics.evaluate import LOWER_IS_BETTER, default_times, evaluate_classes, evaluate_survival
from beph_store.metrics.lifetime import Baseline, KaplanMeier, LogRank, breslow, kaplan_meier, log_rank
from beph_store.metrics.survival import auc_t, brier_t, cindex_harrell, cindex_uno, integrated_brier

__all__ = [
    "LOWER_IS_BETTER",
    "Baseline",
    "Calibration",
    "Difference",
    "Estimate",
    "KaplanMeier",
    "LogRank",
    "PrecisionRecall",
    "Roc",
    "accuracy",
    "auc_t",
    "auprc",
    "auprc_per_class",
    "auroc",
    "auroc_per_class",
    "balanced_accuracy",
    "breslow",
    "brier",
    "brier_t",
    "calibration_points",
    "cindex_harrell",
    "cindex_uno",
    "compare_classes",
    "compare_survival",
    "confusion_matrix",
    "confusions",
    "default_times",
    "delong",
    "draws",
    "ece",
    "estimate",
    "evaluate_classes",
    "evaluate_survival",
    "f1_macro",
    "f1_per_class",
    "f1_weighted",
    "integrated_brier",
    "interval",
    "kappa_quadratic",
    "kaplan_meier",
    "log_loss",
    "log_rank",
    "paired_bootstrap",
    "pr_points",
    "recall_per_class",
    "roc_points",
    "with_point",
]
