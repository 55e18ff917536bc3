"""The table of published encoders: each row's network is the published one, and each layout of weights loads into it.

The weights themselves are not at hand; files with random weights stand for them, in the layout of the published ones.
"""

import re
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
import torch

from beph_store.encoders import ENCODERS, NORMALISATIONS, load_bundle, probe_tiles
from beph_store.encoders.catalogue import CATALOGUE
from beph_store.encoders.entry import POOLINGS
from beph_store.encoders.torch_side.export import ExportOptions, export_loaded
from beph_store.encoders.torch_side.loaded import Embedder
from beph_store.encoders.torch_side.networks import build, pooled
from beph_store.encoders.torch_side.published import load_published
from beph_store.errors import UnknownEncoder, UsageError, WeightsMismatch

ROWS = pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)


WIDTH, HEADS = 96, 4


def small(entry, depth=1):
    """The row with few blocks and narrow tokens: its layers, pooling and layout at a size that a test computes."""
    name, given = entry.network.architecture, dict(entry.network.arguments)
    if name.startswith("swin"):
        changes, width = {"embed_dim": 32, "depths": (1, 1, 1, 1)}, 256
    elif name.startswith("resnet"):
        changes, width = {"layers": (1, 1, 1, 1)}, 2048
    else:
        changes, width = {"embed_dim": WIDTH, "num_heads": HEADS, "depth": depth}, WIDTH
    variants = tuple(replace(v, dim=(1 + (v.pooling == "cls+mean")) * width) for v in entry.variants)
    return replace(
        entry, variants=variants, network=replace(entry.network, arguments=tuple((given | changes).items()))
    )


def random_weights(entry, seed=0):
    """A model of the row whose every tensor is random: timm's own start leaves whole blocks without effect."""
    torch.manual_seed(seed)
    model = build(entry.network, entry.tile_px)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                if (
                    tensor.ndim < 4
                ):  # convolutions begin well as they are, and only so keep their scale over 50 layers
                    tensor.normal_(0, 0.05)
                if name.endswith(
                    (
                        "norm.weight",
                        "norm1.weight",
                        "norm2.weight",
                        "running_var",
                        "gamma",
                        "bn1.weight",
                        "bn2.weight",
                        "bn3.weight",
                        "downsample.1.weight",
                    )
                ):
                    tensor.abs_().add_(0.5)
    return model.eval()


def test_the_table_is_sound():
    assert len(ENCODERS) == len(CATALOGUE) + 2
    for name, entry in ENCODERS.items():
        assert (name, entry.tile_px) == (entry.name, 224)
        assert entry.licence
        assert entry.what
        assert entry.dim > 0
        for variant in entry.variants:
            assert variant.normalisation in NORMALISATIONS
            assert variant.pooling in POOLINGS
        facts = entry.facts()
        columns = {*facts, "file", "normalisation", "digest"}
        assert set(entry.unconfirmed) <= columns
        if entry.source is not None:
            assert entry.source.page.startswith("https://")
            assert entry.source.kind == "hub" or entry.source.place.startswith("https://")
            assert entry.source.files
            assert entry.paper


@ROWS
def test_a_network_has_the_published_size_and_output(entry):
    with torch.device("meta"), torch.no_grad():
        model = build(entry.network, entry.tile_px)
        count = sum(p.numel() for p in model.parameters())
        for variant in entry.variants:
            vectors = pooled(model, variant.pooling)(torch.zeros(2, 3, entry.tile_px, entry.tile_px))
            assert vectors.shape == (2, variant.dim)
    assert count == entry.network.parameters


# What the model cards, or those who counted the published files, say; millions.
CARDS = {
    "uni": 303.4,
    "uni2-h": 681.4,
    "virchow": 631.2,
    "prov-gigapath": 1134.95,
    "h-optimus-0": 1134.8,
    "phikon": 85.8,
    "phikon-v2": 303.4,
    "hibou-b": 85.7,
    "hibou-l": 303.7,
    "ctranspath": 27.5,
}


@pytest.mark.parametrize("name", CARDS)
def test_counts_agree_with_what_others_counted(name):
    assert ENCODERS[name].network.parameters / 1e6 == pytest.approx(CARDS[name], abs=0.05)


@pytest.fixture
def pixels():
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", ["uni2-h", "virchow2", "prov-gigapath", "h-optimus-0", "gpfm", "resnet50"])
def test_a_file_in_timms_layout_loads_into_a_row(name, tmp_path, pixels):
    entry = small(ENCODERS[name])
    model = random_weights(entry)
    torch.save(model.state_dict(), tmp_path / "file.bin")
    loaded = load_published(entry, tmp_path / "file.bin")
    assert (loaded.spec.name, loaded.spec.dim, loaded.dropped) == (name, entry.dim, ())
    assert (loaded.spec.mpp, loaded.spec.licence) == (entry.mpp, entry.licence)
    with torch.inference_mode():
        got = loaded.model(pixels)
        tokens = model.forward_features(pixels)
        if name == "virchow2":
            expected = torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], 1)  # registers are not tissue
        elif name == "resnet50":
            expected = tokens.mean((2, 3))
        else:
            expected = tokens[:, 0]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_virchow_comes_in_two_variants(tmp_path, pixels):
    entry = small(ENCODERS["virchow"])
    torch.save(random_weights(entry).state_dict(), tmp_path / "file.bin")
    both = load_published(entry, tmp_path / "file.bin")
    alone = load_published(entry, tmp_path / "file.bin", variant="cls")
    assert (both.spec.dim, alone.spec.dim, alone.spec.variant) == (2 * WIDTH, WIDTH, "cls")
    assert both.spec.weights_sha256 == alone.spec.weights_sha256
    with torch.inference_mode():
        torch.testing.assert_close(both.model(pixels)[:, :WIDTH], alone.model(pixels))


def transformers_names(state, model, *, dinov2):
    """timm's tensors under transformers' names, written out from its classes ViTModel and Dinov2Model."""
    dim = model.embed_dim
    out = {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.position_embeddings": state["pos_embed"],
        "embeddings.patch_embeddings.projection.weight": state["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": state["patch_embed.proj.bias"],
        "layernorm.weight": state["norm.weight"],
        "layernorm.bias": state["norm.bias"],
    }
    norms = ("norm1", "norm2") if dinov2 else ("layernorm_before", "layernorm_after")
    for i in range(len(model.blocks)):
        ours, theirs = f"blocks.{i}.", f"encoder.layer.{i}."
        for end in ("weight", "bias"):
            for part, name in enumerate(("query", "key", "value")):
                rows = state[f"{ours}attn.qkv.{end}"][part * dim : (part + 1) * dim]
                out[f"{theirs}attention.attention.{name}.{end}"] = rows
            out[f"{theirs}attention.output.dense.{end}"] = state[f"{ours}attn.proj.{end}"]
            out[f"{theirs}{norms[0]}.{end}"] = state[f"{ours}norm1.{end}"]
            out[f"{theirs}{norms[1]}.{end}"] = state[f"{ours}norm2.{end}"]
            swiglu = hasattr(model.blocks[0].mlp, "gate_last")
            first, second = ("weights_in", "weights_out") if swiglu else ("fc1", "fc2")
            first, second = (
                (f"mlp.{first}", f"mlp.{second}") if dinov2 else ("intermediate.dense", "output.dense")
            )
            out[f"{theirs}{first}.{end}"] = state[f"{ours}mlp.fc1.{end}"]
            out[f"{theirs}{second}.{end}"] = state[f"{ours}mlp.fc2.{end}"]
        if dinov2:
            out[f"{theirs}layer_scale1.lambda1"] = state[f"{ours}ls1.gamma"]
            out[f"{theirs}layer_scale2.lambda1"] = state[f"{ours}ls2.gamma"]
    return out


@pytest.mark.parametrize(("name", "dinov2"), [("phikon", False), ("phikon-v2", True)])
def test_a_file_of_transformers_loads_into_a_row(name, dinov2, tmp_path, pixels):
    from safetensors.torch import save_file

    entry = small(ENCODERS[name], depth=2)
    model = random_weights(entry)
    named = transformers_names(model.state_dict(), model, dinov2=dinov2)
    named |= {"embeddings.mask_token": torch.zeros(1, model.embed_dim)} if dinov2 else {}
    named |= {} if dinov2 else {"pooler.dense.weight": torch.zeros(3, 3), "pooler.dense.bias": torch.zeros(3)}
    save_file({k: v.contiguous().clone() for k, v in named.items()}, tmp_path / "model.safetensors")
    loaded = load_published(entry, tmp_path / "model.safetensors")
    assert len(loaded.dropped) == (1 if dinov2 else 2)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(pixels), model(pixels))
    del named["encoder.layer.1.attention.attention.key.bias"]
    save_file({k: v.contiguous().clone() for k, v in named.items()}, tmp_path / "less.safetensors")
    with pytest.raises(WeightsMismatch, match=r"1 missing: blocks\.1\.attn\.qkv\.bias"):
        load_published(entry, tmp_path / "less.safetensors")


def with_class_position(model):
    """A file of DINOv2 with registers has a position for the class token; timm adds it to the token beforehand."""
    state = {k: v.clone() for k, v in model.state_dict().items()}
    position = torch.randn(1, 1, model.embed_dim, generator=torch.Generator().manual_seed(1)) * 0.1
    state["pos_embed"] = torch.cat([position, state["pos_embed"]], 1)
    state["cls_token"] -= position
    return state


def test_hibou_loads_with_its_registers_and_class_position(tmp_path, pixels):
    entry = small(ENCODERS["hibou-b"])
    model = random_weights(entry)
    named = transformers_names(with_class_position(model), model, dinov2=True)
    named["embeddings.register_tokens"] = model.reg_token.data
    torch.save(named, tmp_path / "model.bin")
    loaded = load_published(entry, tmp_path / "model.bin")
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(pixels), model(pixels))
        torch.testing.assert_close(loaded.model(pixels), by_hand(model, with_class_position(model), pixels))


def by_hand(model, state, pixels):
    """DINOv2 with registers as its authors write it: positions on class and patches, registers put in between."""
    x = model.patch_embed(pixels)
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], 1) + state["pos_embed"]
    x = torch.cat([x[:, :1], state["reg_token"].expand(len(x), -1, -1), x[:, 1:]], 1)
    for block in model.blocks:
        x = block(x)
    return model.norm(x)[:, 0]


def test_a_teacher_of_dinov2_in_chunks_loads_beside_its_heads(tmp_path, pixels):
    entry = small(ENCODERS["gpfm"], depth=2)
    model = random_weights(entry)
    chunk = {"blocks.0.": "blocks.0.0.", "blocks.1.": "blocks.1.1."}
    named = {re.sub(r"^blocks\.\d\.", lambda m: chunk[m[0]], k): v for k, v in model.state_dict().items()}
    teacher = {f"backbone.{k}": v for k, v in named.items()} | {"backbone.mask_token": torch.zeros(1, WIDTH)}
    teacher |= {"dino_head.last_layer.weight": torch.zeros(2), "ibot_head.mlp.0.bias": torch.zeros(2)}
    torch.save({"teacher": teacher}, tmp_path / "GPFM.pth")
    loaded = load_published(entry, tmp_path / "GPFM.pth")
    assert loaded.dropped == ("backbone.mask_token", "dino_head.last_layer.weight", "ibot_head.mlp.0.bias")
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(pixels), model(pixels))


def test_positions_of_larger_tiles_are_resampled_as_timm_does(tmp_path, pixels):
    """kaiko-vitl14 was published for 518 px; timm resamples its positions in every forward pass at 224."""
    entry = small(ENCODERS["kaiko-vitl14"])
    wide = replace(
        entry.network, arguments=(*entry.network.arguments, ("img_size", 518), ("dynamic_img_size", True))
    )
    model = random_weights(replace(entry, network=wide))
    state = with_class_position(model)
    state["register_tokens"] = state.pop("reg_token")
    state["mask_token"] = torch.zeros(1, WIDTH)
    torch.save(state, tmp_path / "vitl14.pth")
    loaded = load_published(entry, tmp_path / "vitl14.pth")
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(pixels), model(pixels), atol=1e-5, rtol=1e-5)
    torch.save({**state, "pos_embed": state["pos_embed"][:, :-5]}, tmp_path / "odd.pth")
    with pytest.raises(WeightsMismatch, match="1 wrong: pos_embed"):
        load_published(entry, tmp_path / "odd.pth")


def test_ctranspath_loads_from_a_swin_of_old_timm(tmp_path, pixels):
    entry = small(ENCODERS["ctranspath"])
    model = random_weights(entry)
    old = {re.sub(r"^layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", k): v
           for k, v in model.state_dict().items()}  # fmt: skip
    old |= {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.int64)}
    old |= {"head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}
    torch.save({"model": old}, tmp_path / "ctranspath.pth")
    loaded = load_published(entry, tmp_path / "ctranspath.pth")
    assert loaded.dropped == ("head.bias", "head.weight", "layers.0.blocks.0.attn.relative_position_index")
    assert loaded.spec.mpp == 1.0
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(pixels), model(pixels))
        # 4 px a token: two convolutions of stride 2
        assert model.patch_embed(pixels).shape == (2, 56, 56, 32)


def test_wrong_files_are_refused_by_name(tmp_path):
    entry = small(ENCODERS["uni"])
    state = random_weights(entry).state_dict()
    path = tmp_path / "file.bin"
    torch.save({**state, "strange": torch.zeros(1), "norm.bias": torch.zeros(7)}, path)
    with pytest.raises(
        WeightsMismatch, match=r"1 unexpected: strange; 1 wrong: norm\.bias \(7,\) instead of"
    ):
        load_published(entry, path)
    torch.save({**state, "norm.bias": torch.full((WIDTH,), torch.nan)}, path)
    with pytest.raises(WeightsMismatch, match=r"not finite, in norm\.bias"):
        load_published(entry, path)
    with pytest.raises(WeightsMismatch, match="no weights file"):
        load_published(entry, tmp_path / "absent.bin")
    with pytest.raises(UsageError, match=r"trained at 0\.5 µm/px"):
        load_published(entry, path, mpp=1.0)
    with pytest.raises(UsageError, match="has no variant"):
        load_published(entry, path, variant="expanded")


def test_a_network_of_photographs_takes_a_scale_and_any_row_a_normalisation(tmp_path):
    entry = small(ENCODERS["dino-vits16"])
    torch.save(random_weights(entry).state_dict(), tmp_path / "file.bin")
    spec = load_published(entry, tmp_path / "file.bin", mpp=1.0, normalised_by="histology").spec
    assert (spec.mpp, spec.variant) == (1.0, "default, histology")
    assert spec.mean == NORMALISATIONS["histology"].mean


@pytest.mark.parametrize("name", ["kaiko-vits16", "virchow2"])
def test_an_exported_row_passes_the_gate(name, tmp_path):
    """Small; whole ones take minutes on a CPU: see the soak test."""
    check_export(small(ENCODERS[name]), tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("name", ["kaiko-vits16", "ctranspath", "resnet50", "dino-vits16"])
def test_a_whole_exported_row_passes_the_gate(name, tmp_path):
    check_export(ENCODERS[name], tmp_path)


def check_export(entry, tmp_path):
    torch.save(random_weights(entry).state_dict(), tmp_path / "file.bin")
    loaded = load_published(entry, tmp_path / "file.bin")
    bundle = export_loaded(loaded, tmp_path / "bundle", ExportOptions(fp16_twin=False))
    assert bundle.parity["fp32"]["passed"]
    assert load_bundle(bundle.path).spec == loaded.spec
    tiles = probe_tiles(224, 2)
    got = ort.InferenceSession(bundle.onnx_path()).run(["embeddings"], {"tiles": tiles})[0]
    with torch.inference_mode():
        expected = Embedder(loaded.model, loaded.spec)(torch.from_numpy(tiles)).numpy()
    np.testing.assert_allclose(got, expected, atol=2e-4, rtol=1e-3)


def test_names_say_what_to_run(monkeypatch, tmp_path):
    monkeypatch.setenv("BEPH_STORE_CACHE", str(tmp_path))
    both = r"encoder pull kaiko-vits16` if .*, then `beph-store encoder export kaiko-vits16 --weights FILE"
    with pytest.raises(UnknownEncoder, match=both):
        load_bundle("kaiko-vits16")
    with pytest.raises(UnknownEncoder, match="did you mean virchow2"):
        load_bundle("virchow-2")
