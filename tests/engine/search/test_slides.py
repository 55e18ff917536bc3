"""Slides like a slide, and the evaluation of a search, against what was planted."""

from __future__ import annotations

import pytest

from beph_store.engine.ingest import ingest
from beph_store.engine.search.slides import MEASURES, judge_slides, judge_tiles, similar_slides
from beph_store.engine.search.table import open_table
from beph_store.errors import UsageError
from beph_store.testing.assemble import assemble_ebhi

from ..study.conftest import plant


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    planted = plant(tmp_path_factory.mktemp("planted"), noise=0.3)
    return open_table(planted.store, labels=planted.labels)


@pytest.mark.parametrize("measure", MEASURES)
def test_like_slides_are_of_the_same_kind_and_another_case(opened, measure) -> None:
    hits = similar_slides(opened, "site1/c05-0", measure=measure, top=8)
    assert "c05" not in {hit.case_id for hit in hits}
    assert sum(int(hit.case_id[1:]) % 2 for hit in hits) >= 7
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_the_case_may_be_found_when_asked_for(opened) -> None:
    hits = similar_slides(opened, "site1/c05-0", top=64, exclude="slide")
    assert "site1/c05-1.svs" in {hit.slide_id for hit in hits}
    with pytest.raises(UsageError, match="choose from mean"):
        similar_slides(opened, "site1/c05-0", measure="vibes")


def test_retrieval_by_slide_finds_the_planted_label(opened) -> None:
    for found in judge_slides(opened, "label", ks=(5,)):
        assert found.scores[0].precision > 0.7
    with pytest.raises(UsageError, match="no column 'grade'"):
        judge_slides(opened, "grade")


def test_retrieval_of_tiles_is_better_than_chance_where_a_third_tells(opened) -> None:
    (found,) = judge_tiles(opened, "label", ks=(1, 5))
    assert [score.k for score in found.scores] == [1, 5]
    assert found.scores[1].items == len(opened.flat)
    assert found.scores[1].precision > 0.55


@pytest.mark.timeout(600)
def test_on_real_tissue_embeddings_beat_colour(realdata, tmp_path) -> None:
    labels = assemble_ebhi(realdata / "ebhi_seg", tmp_path / "slides", limit=80)
    manifest = tmp_path / "slides" / "labels.csv"
    ingest([tmp_path / "slides"], tmp_path / "S", manifest=manifest)
    embeddings, colour = judge_tiles(
        open_table(tmp_path / "S", labels=manifest), "label", ks=(5,), colour=True
    )
    assert labels["label"].n_unique() > 3
    assert embeddings.scores[0].precision > colour.scores[0].precision + 0.1
