"""What is said of figures in words, for the report and for whoever shows them otherwise. Draws nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: What an encoder is known to have been trained on, and the cases that this concerns.
_SEEN = (
    ("beph", r"TCGA-\w\w-\w{4}", "BEPH was pre-trained on slides of TCGA"),
    ("beph-mini", r"TCGA-CR-7395", "beph-mini's training saw a section of TCGA-CR-7395"),
)
TITLES = {
    "auroc": "AUROC",
    "auprc": "average precision",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "f1_macro": "F1, macro",
    "f1_weighted": "F1, weighted",
    "kappa_quadratic": "quadratic kappa",
    "cindex_harrell": "Harrell's C",
    "cindex_uno": "Uno's C",
    "cindex_uno_truncated": "Uno's C, truncated",
    "auc_t": "time-dependent AUC",
    "ibs": "integrated Brier score",
    "auroc (DeLong)": "AUROC, DeLong's test",
}


def seen_by(encoder: str, case_ids: Sequence[str]) -> list[str]:
    """A warning for each set that the encoder is known to have been trained on and whose cases these look like."""
    found = []
    for name, pattern, what in _SEEN:
        concerned = [case for case in case_ids if re.match(pattern, case, re.IGNORECASE)]
        if encoder == name and concerned:
            found.append(
                f"{what}, and {len(concerned)} of these {len(case_ids)} cases look like theirs: the encoder may "
                "have seen the slides tested here, so an outside cohort is the fair test."
            )
    return found
