"""The eleven protocols. What a protocol is, is data: one row here, nothing else.

Sources: the released tables and splits of BEPH's authors (cohorts, classes, fractions, draws), their training scripts
(heads) and the abstract of the preprint, which alone is quoted for figures. It says:
up to 8.8 % and 7.2 % over ResNet and DINO at slide level, 6.44 % and 3.28 % on average in survival.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from beph_store.cohort import Task
from beph_store.encoders.table import TIMM
from beph_store.errors import UsageError

Level = Literal["tile", "slide", "survival"]

#: What a column of published figures says where the abstract is silent.
NOT_STATED = "not stated in the abstract"
#: The encoder that runs when none is named, and the one that the paper is about.
DEFAULT, PAPERS = "beph-mini", "beph"


@dataclass(frozen=True, slots=True)
class Baseline:
    """An encoder of the paper's comparison. ``encoder`` fetches it from timm; ``families`` how names begin that are it
    too; ``stated`` BEPH's gain over it by level, in the abstract's words.
    """

    title: str
    encoder: str
    families: tuple[str, ...]
    stated: Mapping[str, str]

    def is_it(self, name: str) -> bool:
        """Whether an encoder of that name is this baseline."""
        return any(name == family or name.startswith(f"{family}.") for family in self.families)


BASELINES = (
    Baseline(
        "ResNet-50",
        f"{TIMM}resnet50.tv_in1k",
        (f"{TIMM}resnet50",),
        MappingProxyType({"slide": "up to +8.8 %", "survival": "+6.44 % on average"}),
    ),
    Baseline(
        "DINO ViT-S",
        f"{TIMM}vit_small_patch16_224.dino",
        (f"{TIMM}vit_small_patch16_224.dino", f"{TIMM}vit_small_patch8_224.dino"),
        MappingProxyType({"slide": "up to +7.2 %", "survival": "+3.28 % on average"}),
    ),
)


@dataclass(frozen=True, slots=True)
class Protocol:
    """One experiment.

    ``level`` what is told apart: tiles, slides, or outcomes; ``cohort`` whose; ``needs`` what the user brings;
    ``classes`` all of which must be there, in their order (empty: outcomes); ``layout`` of a set of images;
    ``groups`` magnifications, each learned by itself; ``head``; ``scheme`` ``monte-carlo`` draws train and val
    ``draws`` times against one test set of a tenth of the cases, ``kfold`` makes ``folds``, ``draws`` times;
    ``fractions`` of the training data, per cent; ``mpp`` µm/px of the tiles; ``released`` the folder that the authors'
    splits of it are in, ``table`` their table of labels; ``headline`` metrics, the first the one that is compared.
    """

    name: str
    level: Level
    title: str
    cohort: str
    needs: str
    classes: tuple[str, ...]
    head: str
    scheme: Literal["monte-carlo", "kfold"]
    headline: tuple[str, ...]
    layout: str = ""
    groups: tuple[str, ...] = ()
    folds: int = 5
    draws: int = 1
    fractions: tuple[int, ...] = (100,)
    mpp: float | None = None
    released: str = ""
    table: str = ""

    @property
    def brings(self) -> str:
        """``needs`` in a few words."""
        return f"slides, {self.table}" if self.table else "images"

    @property
    def task(self) -> Task:
        """What the labels are for."""
        return "survive" if self.level == "survival" else "classify"

    @property
    def splits(self) -> str:
        """The splits in a few words."""
        if self.scheme == "monte-carlo":
            shares = "/".join(map(str, self.fractions))
            return (
                f"{self.draws} draws against one test set of 10 %, by case; {shares} % of the training cases"
            )
        unit = "image" if self.layout == "lc25000" else "case"
        return f"{self.folds} folds by {unit}" + (f", {self.draws} times" if self.draws > 1 else "")

    @property
    def splits_shortly(self) -> str:
        """The splits in fewer words."""
        if self.scheme == "monte-carlo":
            return f"{self.draws} draws, {self.fractions[0]} to {self.fractions[-1]} %"
        return f"{self.draws} × {self.folds} folds" if self.draws > 1 else f"{self.folds} folds"

    def stated(self, baseline: Baseline) -> str:
        """What the abstract states of BEPH against that baseline at this level."""
        return baseline.stated.get(self.level, NOT_STATED)


def _images(
    name: str, title: str, cohort: str, classes: tuple[str, ...], headline: tuple[str, ...], groups: int
) -> Protocol:
    return Protocol(
        name,
        "tile",
        title,
        cohort,
        f"--images: the folder of {cohort} as it is downloaded",
        classes,
        "linear probe",
        "kfold",
        headline,
        layout=name,
        groups=("40", "100", "200", "400")[:groups],
        draws=5,
    )


def _subtyping(name: str, title: str, cohort: str, classes: tuple[str, ...], released: str) -> Protocol:
    return Protocol(
        f"subtype-{name}",
        "slide",
        title,
        cohort,
        f"--slides; --cohort: slide_id, case_id and a class ({', '.join(classes)}), as {released}_subset.csv",
        classes,
        "CLAM-SB",
        "monte-carlo",
        ("auroc", "balanced_accuracy", "accuracy"),
        draws=10,
        fractions=(25, 50, 75, 100),
        mpp=0.25,
        released=released,
        table=f"{released}_subset.csv",
    )


def _survival(name: str, cohort: str, table: str, released: str) -> Protocol:
    return Protocol(
        f"survival-{name}",
        "survival",
        f"Overall survival in {name.upper()}",
        cohort,
        f"--slides; --cohort: slide_id, case_id, a time and an event, as {table}",
        (),
        "CLAM-SB, Cox loss",
        "kfold",
        ("cindex_harrell", "cindex_uno"),
        mpp=0.25,
        released=released,
        table=table,
    )


#: By name, in the paper's order.
PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        row.name: row
        for row in (
            _images(
                "breakhis",
                "Benign or malignant, breast",
                "BreakHis",
                ("benign", "malignant"),
                ("patient_accuracy", "accuracy", "balanced_accuracy"),
                4,
            ),
            _images(
                "lc25000",
                "Five classes of lung and colon",
                "LC25000",
                ("colon_aca", "colon_n", "lung_aca", "lung_n", "lung_scc"),
                ("accuracy", "balanced_accuracy"),
                0,
            ),
            _subtyping(
                "rcc", "Subtypes of renal cancer", "TCGA RCC", ("CCRCC", "PRCC", "CHRCC"), "tcga_kidney"
            ),
            _subtyping("brca", "Subtypes of breast cancer", "TCGA-BRCA", ("IDC", "ILC"), "tcga_brca"),
            _subtyping(
                "nsclc", "Subtypes of non-small-cell lung", "TCGA NSCLC", ("LUAD", "LUSC"), "tcga_lung"
            ),
            _survival("brca", "TCGA-BRCA", "tcga_brca_subset.csv", "tcga_brca"),
            _survival("crc", "TCGA-COAD, READ", "TCGA_CRC.csv", "tcga_crc"),
            _survival("ccrcc", "TCGA-KIRC", "TCGA_KIRC.csv", "tcga_ccrcc"),
            _survival("prcc", "TCGA-KIRP", "TCGA_PRCC.csv", "tcga_prcc"),
            _survival("luad", "TCGA-LUAD", "TCGA_LUAD.csv", "tcga_lung"),
            _survival("stad", "TCGA-STAD", "TCGA_STAD.csv", "tcga_stad"),
        )
    }
)


def protocol(name: str) -> Protocol:
    """The row of that name; UsageError lists the names."""
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    near = difflib.get_close_matches(name, PROTOCOLS, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}" if near else ""
    raise UsageError(f"no protocol {name!r}{hint}: choose from {', '.join(PROTOCOLS)}")
