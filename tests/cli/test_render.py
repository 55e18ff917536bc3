"""Tables: ids stay in one piece where they can, and nothing is lost where they cannot."""

from __future__ import annotations

import pytest

from beph_store_cli.render import WIDTH, console, table

REASON = "the file is not a slide that any reader here can open, or it was cut short while it was copied; copy it again"


def _shown(columns, rows) -> list[str]:
    screen = console()
    with screen.capture() as captured:
        screen.print(table(columns, rows))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= WIDTH
    return lines


@pytest.mark.parametrize("slide", ["boxes.tiff", "site-03/TCGA-A1-A0SB-01Z-00-DX1.B34C267B.svs"])
def test_a_slide_id_is_not_broken_by_a_long_reason(slide) -> None:
    columns = ("slide", "status", "#tiles", "#µm/px", "from", "reader", "reason")
    lines = _shown(columns, [(slide, "failed", 0, None, None, None, REASON)])
    assert lines[1].startswith(f"{slide} ")
    assert " ".join(" ".join(line[len(slide) :].split()) for line in lines).count("copied") == 1


def test_two_ids_side_by_side_are_kept_too() -> None:
    a, b = "case-0001/slide-one-of-two.svs", "case-0002/slide-two-of-two.svs"
    lines = _shown(
        ("verdict", "slide", "same tissue on", "#pairs", "evidence"), [("leak", a, b, 12, "same file")]
    )
    assert a in lines[1]
    assert b in lines[1]


def test_what_is_longer_than_the_screen_is_folded_and_not_cut() -> None:
    slide = "x" * 140 + ".svs"
    lines = _shown(("slide", "#tiles", "reason"), [(slide, 3, REASON)])
    folded = "".join(line.split(" ")[0] for line in lines[1:])
    assert folded.startswith("x" * 140)
    assert ".svs" in folded


def test_an_empty_table_has_its_header() -> None:
    assert _shown(("slide", "#tiles"), []) == ["slide  tiles"]
