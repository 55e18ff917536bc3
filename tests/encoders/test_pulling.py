"""`encoder pull`: what comes is checked as the loader checks it, kept with its hash, and refused otherwise."""

import hashlib
import json

import pytest
import torch

from beph_store.encoders import encoder_entry, where
from beph_store.encoders.table import ENCODERS
from beph_store.encoders.torch_side import pulling
from beph_store.encoders.torch_side.export import ExportOptions, load_encoder
from beph_store.encoders.torch_side.pulling import pull
from beph_store.encoders.weights import RECORD, find, present, record, weights_folder
from beph_store.errors import EncoderError, UsageError, WeightsMismatch
from tests.encoders.conftest import DIM, save, seeded_state
from tests.encoders.servers import serving


@pytest.fixture
def shelf(monkeypatch, tmp_path):
    """A server, and caches of their own."""
    monkeypatch.setenv("BEPH_STORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    with serving() as shelf:
        yield shelf


def content(tmp_path, seed=0, **options):
    return save(tmp_path / f"{seed}.pth", seeded_state(seed, **options)).read_bytes()


def test_beph_is_pulled_checked_and_then_found_by_its_name(shelf, tmp_path):
    shelf.files["/BEPH_backbone.pth"] = data = content(tmp_path)
    url = f"{shelf.url}/BEPH_backbone.pth"
    assert where(encoder_entry("beph")) == ""
    got = pull("beph", place=url)
    assert (got.new, got.spec.dim, got.spec.name) == (True, DIM, "beph")
    assert got.kept.sha256 == hashlib.sha256(data).hexdigest()
    assert (got.kept.place, got.kept.licence) == (url, encoder_entry("beph").licence)
    assert record("beph") == got.kept
    assert where(encoder_entry("beph")) == "weights"
    assert load_encoder("beph", None, ExportOptions()).spec == got.spec
    shelf.asked.clear()
    assert not pull("beph", place=url).new
    assert not pull("beph").new
    assert shelf.asked == []


def test_a_cut_pull_goes_on(shelf, tmp_path, monkeypatch):
    monkeypatch.setattr("beph_store.encoders.download._PAUSE_S", 0.0)
    shelf.files["/b.pth"] = content(tmp_path)
    shelf.cut = [50_000, *[0] * 4]
    with pytest.raises(EncoderError, match="run it again, it goes on"):
        pull("beph", place=f"{shelf.url}/b.pth")
    assert present(encoder_entry("beph")) is None
    assert pull("beph", place=f"{shelf.url}/b.pth").resumed == 50_000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("backbone.layers.1.gamma_1"), r"1 missing: backbone\.layers\.1\.gamma_1"),
        (lambda s: s.update({"backbone.more": torch.zeros(1)}), r"1 unexpected: backbone\.more"),
        (lambda s: s["backbone.cls_token"].fill_(torch.nan), "not finite"),
    ],
)
def test_wrong_content_is_refused_and_nothing_stays(shelf, tmp_path, change, words):
    state = seeded_state()
    change(state)
    shelf.files["/b.pth"] = save(tmp_path / "b.pth", state).read_bytes()
    with pytest.raises(WeightsMismatch, match=rf"what came for BEPH_backbone\.pth is not beph: .*{words}"):
        pull("beph", place=f"{shelf.url}/b.pth")
    assert list(weights_folder("beph").iterdir()) == []


def test_no_checkpoint_at_all_is_refused(shelf):
    shelf.files["/b.pth"] = b"PK not a checkpoint"
    shelf.pages.add("/page")
    with pytest.raises(WeightsMismatch, match="not a plain torch file"):
        pull("beph", place=f"{shelf.url}/b.pth")
    with pytest.raises(
        EncoderError, match=r"web page .*: fetch it from https://github\.com/Zhcyoung/BEPH with a browser"
    ):
        pull("beph", place=f"{shelf.url}/page")
    assert list(weights_folder("beph").iterdir()) == []


def at_the_authors(monkeypatch, name, url, **changes):
    """The row's published place is the test's server."""
    from dataclasses import replace

    entry = ENCODERS[name]
    row = replace(entry, source=replace(entry.source, place=url, **changes))
    monkeypatch.setattr(pulling, "encoder_entry", lambda _: row)


def test_the_authors_place_must_give_the_whole_model(shelf, tmp_path, monkeypatch):
    shelf.files["/b.pth"] = content(tmp_path)
    at_the_authors(monkeypatch, "beph", f"{shelf.url}/b.pth")
    with pytest.raises(WeightsMismatch, match="gives 32 numbers of 48 px tiles; beph has 768 of 224 px"):
        pull("beph")
    at_the_authors(monkeypatch, "beph", f"{shelf.url}/b.pth", digest="md5:0123")
    with pytest.raises(WeightsMismatch, match="is not the published file: its MD5 differs"):
        pull("beph")


def test_a_place_that_changed_its_file_is_refused(shelf, tmp_path):
    shelf.files["/b.pth"] = content(tmp_path)
    kept = pull("beph", place=f"{shelf.url}/b.pth").kept
    kept.path.unlink()
    shelf.files["/b.pth"] = content(tmp_path, 1)
    with pytest.raises(WeightsMismatch, match=rf"now gives another file than on .*delete .*{RECORD}"):
        pull("beph", place=f"{shelf.url}/b.pth")
    (weights_folder("beph") / RECORD).unlink()
    assert pull("beph", place=f"{shelf.url}/b.pth").new


def test_altered_weights_are_noticed_before_they_are_used(shelf, tmp_path):
    shelf.files["/b.pth"] = content(tmp_path)
    kept = pull("beph", place=f"{shelf.url}/b.pth").kept
    data = kept.path.read_bytes()
    kept.path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(EncoderError, match="was altered since it was pulled"):
        find(encoder_entry("beph"))


def test_what_ships_has_nothing_to_pull(shelf):
    with pytest.raises(UsageError, match="ships with beph-store"):
        pull("beph-mini")


# ---- the hub ------------------------------------------------------------------------------------

SMALL = "dino-vits16"


@pytest.fixture
def hub(shelf, monkeypatch):
    """A server with the hub's answers to the two requests that a download makes."""
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_ENDPOINT", shelf.url)
    return shelf


def resolve(name, file):
    return f"/{ENCODERS[name].source.place}/resolve/main/{file}"


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory):
    """The whole row with random weights, as its repository holds it."""
    from safetensors.torch import save_file

    from beph_store.encoders.torch_side.networks import build

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("hub") / "model.safetensors"
    save_file(build(ENCODERS[SMALL].network, 224).state_dict(), path)
    return path.read_bytes()


def test_weights_come_from_the_hub_and_stay_in_its_cache(hub, small_weights):
    hub.files[resolve(SMALL, "model.safetensors")] = small_weights
    got = pull(SMALL)
    assert got.kept.sha256 == hashlib.sha256(small_weights).hexdigest()
    assert got.kept.place == f"hub:{ENCODERS[SMALL].source.place}@{'0' * 40}"
    assert where(ENCODERS[SMALL]) == "weights"
    hub.files.clear()
    assert find(ENCODERS[SMALL]) == got.kept.path
    (weights_folder(SMALL) / RECORD).unlink()
    assert find(ENCODERS[SMALL]) == got.kept.path  # still in the hub's cache


def test_the_second_name_of_a_file_is_tried(hub, small_weights, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.bin")
    hub.files[resolve(SMALL, "pytorch_model.bin")] = (tmp_path / "other.bin").read_bytes()
    with pytest.raises(WeightsMismatch, match="missing: blocks"):
        pull(SMALL)
    assert record(SMALL) is None
    hub.files.clear()


@pytest.mark.parametrize(("code", "error"), [(401, "GatedRepo"), (403, "GatedRepo"), (401, "")])
def test_no_access_says_where_to_accept_and_how_to_log_in(hub, code, error):
    for file in ENCODERS["virchow2"].source.files:
        hub.status[resolve("virchow2", file)] = (code, {"X-Error-Code": error} if error else {})
    words = (
        r"virchow2 is gated: accept its licence \(CC-BY-NC-ND-4\.0\) at https://huggingface\.co/paige-ai/Virchow2, "
        r"then `hf auth login` or set HF_TOKEN; or pass --weights FILE"
    )
    with pytest.raises(EncoderError, match=words):
        load_encoder("virchow2", None, ExportOptions())


def test_an_empty_repository_is_told(hub):
    with pytest.raises(
        EncoderError, match=r"has no model\.safetensors and no pytorch_model\.bin: pass --weights"
    ):
        load_encoder("virchow2", None, ExportOptions())


def test_a_hub_out_of_reach_says_how_to_go_on(shelf, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def unreachable(*args, **options):
        raise hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(hub, "hf_hub_download", unreachable)
    with pytest.raises(
        EncoderError, match=r"`hf download MahmoodLab/UNI pytorch_model\.bin`; then pass --weights"
    ):
        load_encoder("uni", None, ExportOptions())


def test_the_real_fixture_is_pulled_as_beph(shelf, realdata):
    data = (realdata / "beph_fixture" / "mm_tiny_backbone.pth").read_bytes()
    shelf.files["/BEPH_backbone.pth"] = data
    shelf.cut = [200_000]
    got = pull("beph", place=f"{shelf.url}/BEPH_backbone.pth")
    assert (got.spec.dim, got.kept.bytes) == (64, len(data))
    assert (
        json.loads((weights_folder("beph") / RECORD).read_text())["sha256"]
        == hashlib.sha256(data).hexdigest()
    )
