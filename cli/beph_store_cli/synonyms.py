"""What other tools call the things of this one: said to who writes it, and never taken for granted."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from beph_store.errors import UsageError

_MPP = "scale is given in µm per px: 40x is --mpp 0.25, 20x --mpp 0.5, 10x --mpp 1"
_SIDE = (
    "tiles have the side that the encoder takes (--tile-px), and --mpp says how much tissue they show: "
    "256 px at 0.5 µm are 224 px at --mpp 0.5714"
)
_STEP = "tiles overlap where --stride-px is less than their side: of 224 px, --stride-px 168 is a quarter"
_SLIDES = "slides and folders are named without a flag: `beph-store ingest FOLDER --store S`"

#: Options of other tools that no command here has, with ``-`` for ``_``.
OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("--mag", "--magnification", "--objective", "--target-mag", "--zoom"), _MPP),
        **dict.fromkeys(("--patch-size", "--tile-size", "--patch-px"), _SIDE),
        **dict.fromkeys(("--overlap", "--step-size", "--step", "--stride"), _STEP),
        **dict.fromkeys(
            ("--slide-dir", "--wsi-dir", "--source", "--data-root-dir", "--data-slide-dir"), _SLIDES
        ),
        **dict.fromkeys(("--feat-dir", "--save-dir", "--job-dir"), "embeddings go into a store: --store S"),
        **dict.fromkeys(("--patch-encoder", "--model-name", "--model"), "it is called --encoder here"),
        **dict.fromkeys(
            ("--label", "--label-column", "--label-col"), "the column of the class is --target here"
        ),
        "--min-tissue-proportion": "it is called --tissue-min here",
        "--max-workers": "it is called --workers here",
        "--skip-errors": "no option is needed: a slide that cannot be read gets a row with its reason",
        "--search-nested": "no option is needed: folders are searched to the bottom",
    }
)
#: Values, by the option they were given to.
_VALUES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "--task": {"classification": "classify", "subtyping": "classify", "survival": "survive"},
        "--head": {
            **dict.fromkeys(("mil", "attention", "attention-mil", "attmil", "gated-attention"), "abmil"),
            **dict.fromkeys(("clam-sb", "clam-mb", "clamsb"), "clam"),
            **dict.fromkeys(("mean", "logistic", "logreg", "ridge", "lr"), "linear"),
        },
    }
)
_FORMATS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("h5", "hdf5"), "clam, trident or stamp, by the tool that reads or wrote it"),
        **dict.fromkeys(("lazyslide", "spatialdata"), "wsidata"),
        **dict.fromkeys(("h5ad", "scanpy"), "anndata"),
        **dict.fromkeys(("pt", "torch"), "bags"),
    }
)
_INTO: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("qupath", "geojson"), "`beph-store annotate`, which reads drawn annotations"),
        **dict.fromkeys(("csv", "tsv"), "table"),
    }
)
_OUT_OF: Mapping[str, str] = MappingProxyType({"qupath": "geojson", "csv": "parquet"})


def meant(flag: str, value: str, names: Sequence[str]) -> str:
    """``did you mean …? `` for a value that others use or that is misspelt, else nothing."""
    word = value.lower().replace("_", "-")
    known = _VALUES.get(flag, {}).get(word)
    near = [known] if known in names else difflib.get_close_matches(word, names, n=1, cutoff=0.7)
    return f"did you mean {near[0]}? " if near else ""


def check_format(name: str, *, into: bool) -> None:
    """UsageError with our name of a format that is called otherwise here."""
    word = name.lower()
    other = (_INTO if into else _OUT_OF).get(word) or _FORMATS.get(word)
    if other is not None:
        raise UsageError(f"no format {name!r}: here it is {other}")


def hint(arguments: Sequence[str]) -> str | None:
    """What to write in the place of the first option that is another tool's, if any is."""
    for argument in arguments:
        flag = argument.split("=")[0].replace("_", "-")
        if flag in OPTIONS:
            return f"{argument.split('=')[0]}: {OPTIONS[flag]}"
    return None
