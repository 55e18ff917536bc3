"""Published encoders, a row each: what their model cards and their authors' code say of them.

A fact that neither says is named in the row's ``unconfirmed``. The cards' ``dynamic_img_size`` is left out: a graph
takes tiles of one size, and the weights are the same.
"""

from __future__ import annotations

from beph_store.encoders.entry import EncoderEntry, Network, Pooling, Source, Variant

HUB = "https://huggingface.co"
_GATED_NC = "CC-BY-NC-ND-4.0"
_SAFE, _BIN = "model.safetensors", "pytorch_model.bin"
_SWIGLU = (("mlp_layer", "SwiGLUPacked"), ("act_layer", "SiLU"))


def drive(file_id: str) -> str:
    """Where Google Drive gives a shared file itself, without its page about viruses."""
    return f"https://drive.usercontent.google.com/download?id={file_id}&export=download&confirm=t"


def _hub(repository: str, *files: str, gated: bool = False) -> Source:
    return Source("hub", repository, files, f"{HUB}/{repository}", gated)


def _kaiko(model: str) -> Source:
    base = "https://github.com/kaiko-ai/towards_large_pathology_fms"
    return Source("url", f"{base}/releases/download/0.0.1/{model}.pth", (f"{model}.pth",), base)


def _one(dim: int, normalisation: str = "imagenet", pooling: Pooling = "cls") -> tuple[Variant, ...]:
    return (Variant("default", normalisation, False, "as its model card says", dim, pooling),)


#: Virchow's card joins the class token and the mean patch token.
_VIRCHOW = (
    Variant("default", "imagenet", False, "class token and mean patch token, joined", 2560, "cls+mean"),
    Variant("cls", "imagenet", False, "class token alone", 1280, "cls"),
)
_G14 = Network(
    "vit_giant_patch14_reg4_dinov2", (("img_size", 224), ("init_values", 1e-5)), parameters=1_134_774_272
)
_KAIKO_LICENCE = "Kaiko Non-Commercial 1"
_KAIKO_PAPER = "arXiv:2404.15217"
_OWKIN = "Owkin non-commercial"

CATALOGUE: tuple[EncoderEntry, ...] = (
    EncoderEntry(
        "resnet50",
        "ImageNet, torchvision's first weights: a baseline",
        0.5,
        "BSD-3-Clause",
        _one(2048, pooling="model"),
        network=Network("resnet50", (), 23_508_032),
        source=_hub("timm/resnet50.tv_in1k", _SAFE, _BIN),
        paper="arXiv:1512.03385",
        natural=True,
    ),
    EncoderEntry(
        "dino-vits16",
        "ImageNet, self-supervised: a baseline",
        0.5,
        "Apache-2.0",
        _one(384),
        network=Network("vit_small_patch16_224", (("img_size", 224),), 21_665_664),
        source=_hub("timm/vit_small_patch16_224.dino", _SAFE, _BIN),
        paper="arXiv:2104.14294",
        natural=True,
    ),
    EncoderEntry(
        "uni",
        "ViT-L/16, 100,000 slides",
        0.5,
        _GATED_NC,
        _one(1024),
        network=Network(
            "vit_large_patch16_224",
            (("img_size", 224), ("patch_size", 16), ("init_values", 1e-5)),
            303_350_784,
        ),
        source=_hub("MahmoodLab/UNI", _BIN, gated=True),
        paper="doi:10.1038/s41591-024-02857-3",
    ),
    EncoderEntry(
        "uni2-h",
        "ViT-H/14, 350,000 slides, H&E and IHC",
        0.5,
        _GATED_NC,
        _one(1536),
        network=Network(
            "vit_huge_patch14_224",
            (
                ("img_size", 224),
                ("patch_size", 14),
                ("depth", 24),
                ("num_heads", 24),
                ("init_values", 1e-5),
                ("embed_dim", 1536),
                ("mlp_ratio", 2.66667 * 2),
                ("no_embed_class", True),
                ("reg_tokens", 8),
                *_SWIGLU,
            ),
            681_394_176,
        ),
        source=_hub("MahmoodLab/UNI2-h", _BIN, gated=True),
        paper="doi:10.1038/s41591-024-02857-3",
    ),
    EncoderEntry(
        "virchow",
        "ViT-H/14, 1.5 million slides",
        0.5,
        "Apache-2.0",
        _VIRCHOW,
        network=Network(
            "vit_huge_patch14_224",
            (("img_size", 224), ("init_values", 1e-5), ("mlp_ratio", 5.3375), *_SWIGLU),
            631_229_184,
        ),
        source=_hub("paige-ai/Virchow", _SAFE, _BIN, gated=True),
        paper="doi:10.1038/s41591-024-03141-0",
    ),
    EncoderEntry(
        "virchow2",
        "ViT-H/14, 3.1 million slides, 2 to 0.25 µm/px",
        0.5,
        _GATED_NC,
        _VIRCHOW,
        network=Network(
            "vit_huge_patch14_224",
            (("img_size", 224), ("init_values", 1e-5), ("mlp_ratio", 5.3375), ("reg_tokens", 4), *_SWIGLU),
            631_239_424,
        ),
        source=_hub("paige-ai/Virchow2", _SAFE, _BIN, gated=True),
        paper="arXiv:2408.00738",
    ),
    EncoderEntry(
        "prov-gigapath",
        "ViT-g/16, 171,000 slides; the tile encoder",
        0.5,
        "Apache-2.0, research only",
        _one(1536),
        network=Network(
            "vit_giant_patch14_dinov2",
            (
                ("img_size", 224),
                ("patch_size", 16),
                ("embed_dim", 1536),
                ("depth", 40),
                ("num_heads", 24),
                ("init_values", 1e-5),
                ("mlp_ratio", 5.33334),
            ),
            1_134_953_984,
        ),
        source=_hub("prov-gigapath/prov-gigapath", _BIN, gated=True),
        paper="doi:10.1038/s41586-024-07441-w",
        unconfirmed=("licence",),
    ),
    EncoderEntry(
        "h-optimus-0",
        "ViT-g/14, 500,000 slides",
        0.5,
        "Apache-2.0",
        _one(1536, "h-optimus"),
        network=_G14,
        source=_hub("bioptimus/H-optimus-0", _BIN, _SAFE, gated=True),
        paper="https://github.com/bioptimus/releases",
        unconfirmed=("gated",),
    ),
    EncoderEntry(
        "h-optimus-1",
        "ViT-g/14",
        0.5,
        _GATED_NC,
        _one(1536, "h-optimus"),
        network=_G14,
        source=_hub("bioptimus/H-optimus-1", _SAFE, _BIN, gated=True),
        paper="https://huggingface.co/bioptimus/H-optimus-1",
        unconfirmed=("file",),
    ),
    EncoderEntry(
        "phikon",
        "ViT-B/16, 40 million tiles of TCGA",
        0.5,
        _OWKIN,
        _one(768),
        network=Network("vit_base_patch16_224", (("img_size", 224),), 85_798_656),
        source=_hub("owkin/phikon", _SAFE, _BIN),
        paper="doi:10.1101/2023.07.21.23292757",
    ),
    EncoderEntry(
        "phikon-v2",
        "ViT-L/16, 460 million public tiles",
        0.5,
        _OWKIN,
        _one(1024),
        network=Network("vit_large_patch16_224", (("img_size", 224), ("init_values", 1.0)), 303_350_784),
        source=_hub("owkin/phikon-v2", _SAFE),
        paper="arXiv:2409.09173",
        unconfirmed=("normalisation",),
    ),
    EncoderEntry(
        "ctranspath",
        "Swin-T, 32,000 slides of TCGA and PAIP",
        1.0,
        "GPL-3.0, academic use",
        _one(768, pooling="model"),
        network=Network("swin_tiny_patch4_window7_224", (), 27_520_038, stem="conv"),
        source=Source(
            "url",
            drive("1DoDx_70_TLj98gTf6YTXnu4tFhsFocDX"),
            ("ctranspath.pth",),
            "https://github.com/Xiyue-Wang/TransPath",
        ),
        paper="doi:10.1016/j.media.2022.102559",
    ),
    EncoderEntry(
        "hibou-b",
        "ViT-B/14, over a million slides",
        0.5,
        "Apache-2.0",
        _one(768, "hibou"),
        network=Network(
            "vit_base_patch14_reg4_dinov2",
            (("img_size", 224), ("mlp_ratio", 5.33334), *_SWIGLU),
            85_739_520,
        ),
        source=_hub("histai/hibou-b", _SAFE),
        paper="arXiv:2406.05074",
        unconfirmed=("mpp", "gated", "normalisation"),
    ),
    EncoderEntry(
        "hibou-l",
        "ViT-L/14, over a million slides",
        0.5,
        "Apache-2.0",
        _one(1024, "hibou"),
        network=Network(
            "vit_large_patch14_reg4_dinov2",
            (("img_size", 224), ("mlp_ratio", 5.34375), *_SWIGLU),
            303_657_216,
        ),
        source=_hub("histai/hibou-L", _SAFE, _BIN, gated=True),
        paper="arXiv:2406.05074",
        unconfirmed=("mpp", "normalisation"),
    ),
    EncoderEntry(
        "kaiko-vits16",
        "ViT-S/16, TCGA at several scales",
        0.5,
        _KAIKO_LICENCE,
        _one(384, "symmetric"),
        network=Network("vit_small_patch16_224", (), 21_665_664),
        source=_kaiko("vits16"),
        paper=_KAIKO_PAPER,
        unconfirmed=("mpp",),
    ),
    EncoderEntry(
        "kaiko-vits8",
        "ViT-S/8, TCGA at several scales",
        0.5,
        _KAIKO_LICENCE,
        _one(384, "symmetric"),
        network=Network("vit_small_patch8_224", (), 21_670_272),
        source=_kaiko("vits8"),
        paper=_KAIKO_PAPER,
        unconfirmed=("mpp",),
    ),
    EncoderEntry(
        "kaiko-vitb16",
        "ViT-B/16, TCGA at several scales",
        0.5,
        _KAIKO_LICENCE,
        _one(768, "symmetric"),
        network=Network("vit_base_patch16_224", (), 85_798_656),
        source=_kaiko("vitb16"),
        paper=_KAIKO_PAPER,
        unconfirmed=("mpp",),
    ),
    EncoderEntry(
        "kaiko-vitb8",
        "ViT-B/8, TCGA at several scales",
        0.5,
        _KAIKO_LICENCE,
        _one(768, "symmetric"),
        network=Network("vit_base_patch8_224", (), 85_807_872),
        source=_kaiko("vitb8"),
        paper=_KAIKO_PAPER,
        unconfirmed=("mpp",),
    ),
    EncoderEntry(
        "kaiko-vitl14",
        "ViT-L/14, TCGA at several scales",
        0.5,
        _KAIKO_LICENCE,
        _one(1024, "symmetric"),
        network=Network("vit_large_patch14_reg4_dinov2", (("img_size", 224),), 303_230_976, grid=37),
        source=_kaiko("vitl14"),
        paper=_KAIKO_PAPER,
        unconfirmed=("mpp",),
    ),
    EncoderEntry(
        "gpfm",
        "ViT-L/14, distilled; 512 px at 40x scaled to 224",
        0.571,
        "CC-BY-NC-4.0",
        _one(1024),
        network=Network("vit_large_patch14_dinov2", (("img_size", 224), ("init_values", 1e-5)), 303_227_904),
        source=Source(
            "url",
            "https://github.com/birkhoffkiki/GPFM/releases/download/ckpt/GPFM.pth",
            ("GPFM.pth",),
            "https://github.com/birkhoffkiki/GPFM",
            digest="md5:0dc7e345de84f385d09c8c782b4b3236",
        ),
        paper="arXiv:2407.18449",
        unconfirmed=("licence", "digest"),
    ),
)
