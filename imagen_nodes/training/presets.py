"""Presets: the recipes that come with the program.

Those for CIFAR-10 are a ladder: each is ``dcgan-cifar10`` with one idea changed, and what that idea
needs: least squares (Mao et al. 2016), gradient penalty (Gulrajani et al. 2017), spectral norm with
hinge (Miyato et al. 2018), self-attention (Zhang et al. 2019), real and generated images in pairs
(Huang et al. 2024), classes by batch norm and projection (Miyato & Koyama 2018), growing (Karras et
al. 2018), discriminators at three scales (Wang et al. 2018).
"""

# ruff: noqa: E501 (a table)

from __future__ import annotations

from typing import Any

from .recipe import Recipe

SIXTY_FOUR = {"resolution": 64, "width": 64}
ATTENTION = {"attention": [16]}
BY_CLASS = {"classes": 10, "conditioning": "batch-norm"}

# Adam's betas and learning rates that go with a game.
USUAL = {"lr": 2e-4, "betas": [0.5, 0.999]}
WGAN = {"lr": 2e-4, "betas": [0.0, 0.9]}
TWO_SPEEDS = {"lr": 1e-4, "betas": [0.0, 0.9], "rates": {"discriminator": 4e-4}}
SLOW = {"lr": 2e-4, "betas": [0.0, 0.99]}
QUICK = {"lr": 4e-4, "betas": [0.0, 0.99]}
BIG = {"lr": 2e-4, "betas": [0.0, 0.999]}
EQUALISED = {"lr": 1e-3, "betas": [0.0, 0.99]}

GP = ({"kind": "gradient-penalty"},)
R1 = ({"kind": "r1", "weight": 0.1, "every": 8},)
# A third of the paper's channels, and an eighth of its parameters.
R3GAN = {"widths": [256] * 4, "classes": 10}
R3GAN_G = {"kind": "r3gan-generator", **R3GAN}
R3GAN_D = {"kind": "r3gan-discriminator", **R3GAN}
R1_AND_R2 = ({"kind": "r1", "weight": 0.1, "every": 8}, {"kind": "r2", "weight": 0.1, "every": 8})
GP_AND_DRIFT = (*GP, {"kind": "drift"})

# Half the width of StudioGAN's; the discriminator counts in units of half the size.
BIGGAN = {"attention": [16], "classes": 10}
BIGGAN_G = {"kind": "biggan-generator", "width": 48, "spectral_norm": True, **BIGGAN}
BIGGAN_D = {"kind": "biggan-discriminator", "width": 24, **BIGGAN}
ORTHOGONAL = ({"kind": "orthogonal", "of": "generator"},)

GROWING_G = {"kind": "progan-generator"}
GROWING_D = {"kind": "progan-discriminator"}
GROWTH = {"growth": {"hold_kimg": 100, "fade_kimg": 100}}
THREE_SCALES = {
    "kind": "multi-scale-discriminator",
    "scales": 3,
    "finest": {"kind": "dcgan-discriminator"},
}

# NVIDIA's CIFAR-10 configuration at half the width; at 64 px that of the paper, as narrow.
NARROW = {"width_base": 16384, "width_max": 256}
SMALL_STYLES = {"resolution": 32, "classes": 10, "mapping_layers": 2, **NARROW}
STYLES_32 = {"kind": "stylegan2-generator", **SMALL_STYLES}
PLAIN_32 = {"kind": "stylegan2-discriminator", "paths": "plain", "group": 32, **SMALL_STYLES}
STYLES_64 = {"kind": "stylegan2-generator", "resolution": 64, **NARROW}
RESIDUAL_64 = {"kind": "stylegan2-discriminator", "resolution": 64, **NARROW}
# Configuration T at a quarter of its channels, of ten layers.
ALIASFREE = {
    "kind": "stylegan3-generator", "resolution": 64, "width_base": 8192, "width_max": 128,
    "depth": 10,
}  # fmt: skip
LAZY_R1 = ({"kind": "r1", "weight": 0.01, "every": 16},)
LAZY_R1_PL = ({"kind": "r1", "weight": 0.05, "every": 16}, {"kind": "path-length"})
LAZY_R1_64 = ({"kind": "r1", "weight": 0.05, "every": 16},)
STYLED = {"lr": 2.5e-3, "betas": [0.0, 0.99]}
SLOWER_D = {**STYLED, "rates": {"discriminator": 2e-3}}

# fmt: off
ROWS: tuple[tuple[Any, ...], ...] = (
    # name                  loss            generator   discriminator                      regularisers  D:G  optimiser    more
    ("dcgan-cifar10",       "bce",          {},         {},                                (),            1,  USUAL,       {}),
    ("lsgan-cifar10",       "mse",          {},         {},                                (),            1,  USUAL,       {}),
    ("wgan-gp-cifar10",     "wasserstein",  {},         {"norm": "none"},                  GP,            5,  WGAN,        {}),
    ("sn-hinge-cifar10",    "hinge",        {},         {"norm": "spectral"},              (),            1,  TWO_SPEEDS,  {}),
    ("sagan-cifar10",       "hinge",        ATTENTION,  {"norm": "spectral"} | ATTENTION,  (),            1,  TWO_SPEEDS,  {}),
    ("rpgan-cifar10",       "relativistic", {},         {"norm": "none"},                  R1_AND_R2,     1,  QUICK,       {}),
    ("cgan-cifar10",        "bce",          BY_CLASS,   {"norm": "none", "classes": 10},   R1,            1,  QUICK,       {}),
    ("biggan-cifar10",      "hinge",        BIGGAN_G,   BIGGAN_D,                          ORTHOGONAL,    4,  BIG,         {}),
    ("progressive-cifar10", "wasserstein",  GROWING_G,  GROWING_D,                         GP_AND_DRIFT,  1,  EQUALISED,   GROWTH),
    ("stylegan2-cifar10",   "bce",          STYLES_32,  PLAIN_32,                          LAZY_R1,       1,  STYLED,      {}),
    ("r3gan-cifar10",       "relativistic", R3GAN_G,    R3GAN_D,                           R1_AND_R2,     1,  SLOW,        {}),
    ("multi-scale-cifar10", "bce",          {},         THREE_SCALES,                      (),            1,  USUAL,       {}),
    ("dcgan-64",            "bce",          SIXTY_FOUR, SIXTY_FOUR,                        (),            1,  USUAL,       {}),
    ("stylegan2-64",        "bce",          STYLES_64,  RESIDUAL_64,                       LAZY_R1_PL,    1,  STYLED,      {"style_mixing": 0.9}),
    ("stylegan3-64",        "bce",          ALIASFREE,  RESIDUAL_64,                       LAZY_R1_64,    1,  SLOWER_D,    {}),
)
# fmt: on


def _recipe(
    name: str,
    loss: str,
    generator: dict[str, Any],
    discriminator: dict[str, Any],
    regularisers: tuple[dict[str, Any], ...],
    generator_every: int,
    optimiser: dict[str, Any],
    more: dict[str, Any],
) -> Recipe:
    task = {
        "generator": {"kind": "dcgan-generator", **generator},
        "discriminator": {"kind": "dcgan-discriminator", **discriminator},
        "loss": loss,
        "regularisers": regularisers,
        "generator_every": generator_every,
        **more,
    }
    return Recipe.model_validate({"name": name, "task": task, "optimiser": optimiser})


# Of networks of pictures: Adam and its rate along half a cosine, over the whole training.
def _falling(start: float, kimg: float) -> dict[str, Any]:
    return {"lr": {"start": start, "end": start / 50, "kimg": kimg}, "betas": [0.9, 0.99]}


PLAIN_LOSS: dict[str, Any] = {}
GAN_LOSS = {
    "perceptual_weight": 1.0,
    "adversarial_weight": 0.1,
    "discriminator": {"kind": "unet-discriminator", "width": 32},
}
X2, X4 = ({"generator": {"scale": scale, "slopes": "layer"}} for scale in (2, 4))
SAME_SIZE = {
    "generator": {
        "kind": "residual-unet",
        "widths": (64, 56, 72),
        "middle": 1,
        "noise_map": True,
        "jpeg_mark": True,
        "modulated": True,
    }
}
FROM_WEB = {"degradation": {"kind": "photo"}}
NOISY = {
    "degradation": {
        "kind": "noise",
        "common": (10, 30),
        "jpeg": 0.25,
        "noisy": 0.5,
        "quality": (10, 95),
        "grey": 0.1,
        "clipped": 0.7,
    },
    "tinted": 0.3,
    "tile": 128,
    "halved": 0.4,
    "grey": 0.1,
}

# fmt: off
RESTORE_ROWS: tuple[tuple[Any, ...], ...] = (
    # name             network    loss        degradation  patch  batch  rate  kimg  begin with
    ("sr-x2-fidelity", X2,        PLAIN_LOSS, {},          96,    16,    5e-4, 400,  None),
    ("sr-x4-fidelity", X4,        PLAIN_LOSS, {},          192,   16,    5e-4, 400,  None),
    ("sr-x4-gan",      X4,        GAN_LOSS,   {},          192,   16,    1e-4, 100,  "sr-x4-fidelity.safetensors"),
    ("sr-x4-photo",    X4,        GAN_LOSS,   FROM_WEB,    192,   16,    1e-4, 200,  "sr-x4-fidelity.safetensors"),
    ("denoise",        SAME_SIZE, PLAIN_LOSS, NOISY,       64,    8,     2e-3, 400,  None),
)
# fmt: on


def _restore(
    name: str,
    network: dict[str, Any],
    loss: dict[str, Any],
    degradation: dict[str, Any],
    patch: int,
    batch: int,
    rate: float,
    kimg: float,
    begin_with: str | None,
) -> Recipe:
    task = {"kind": "restore", **network, **loss, **degradation, "patch": patch}
    fields = {"name": name, "task": task, "batch": batch, "kimg": kimg, "begin_with": begin_with}
    return Recipe.model_validate({**fields, "optimiser": _falling(rate, kimg)})


FILLER = {"activation": "relu", "widths": [64, 96, 128], "dilations": [2, 4, 8, 16, 4]}
# name, patch px, batch, learning rate, kimg
INPAINT_ROWS = (("inpaint", 128, 8, 5e-4, 200),)


def _inpaint(name: str, patch: int, batch: int, rate: float, kimg: float) -> Recipe:
    task = {"kind": "inpaint", "patch": patch, "generator": FILLER}
    optimiser = _falling(rate, kimg) | {"betas": [0.5, 0.99], "rates": {"discriminator": 2e-4}}
    fields = {"name": name, "task": task, "batch": batch, "kimg": kimg}
    return Recipe.model_validate({**fields, "optimiser": optimiser})


# Style transfer; the second goes on with a discriminator.
STYLISH = {"recolour": 0.2, "warmup_kimg": 8.0, "style_weight": 3.0, "identity_weight": 3.0}
JUDGED = {
    "warmup_kimg": 0,
    "adversarial_weight": 0.1,
    "discriminator": {"kind": "patch-discriminator", "width": 32, "norm": "spectral"},
}

# fmt: off
STYLE_ROWS: tuple[tuple[Any, ...], ...] = (
    # name        adversary   batch  rate  kimg  begin with
    ("style",     PLAIN_LOSS, 16,    5e-4, 800,  None),
    ("style-gan", JUDGED,     16,    2e-4, 200,  "style.safetensors"),
)
# fmt: on


def _style(
    name: str,
    adversary: dict[str, Any],
    batch: int,
    rate: float,
    kimg: float,
    begin_with: str | None,
) -> Recipe:
    task = {"kind": "style", "generator": {"kind": "residual-adain"}, **STYLISH, **adversary}
    fields = {"name": name, "task": task, "batch": batch, "kimg": kimg, "begin_with": begin_with}
    return Recipe.model_validate({**fields, "optimiser": _falling(rate, kimg)})


# Pairs: a residual U-Net with LPIPS, which gets it going in a few thousand images; and pix2pixHD's
# way: a ResNet, discriminators at two scales, feature matching.
MAPPER = {
    "kind": "residual-unet",
    "widths": [64, 96, 128, 128],
    "blocks": 1,
    "middle": 2,
    "unshuffle": 2,
    "bias": True,
}
SEEN = {"l1_weight": 20.0, "perceptual_weight": 20.0}
SLIM_RESNET = {"kind": "resnet-generator", "width": 24, "blocks": 6, "up": "nearest"}
SLIM_PATCH = {"width": 32, "norm": "instance"}
TWO_SCALES = {**SLIM_PATCH, "scales": 2}
MATCHED = {"adversarial_weight": 2.0, "l1_weight": 10.0, "feature_weight": 10.0}
# Two kinds of pictures, of which trainB (photos) are turned into trainA (Monet): FastCUT, CycleGAN.
# This one begins by giving the picture back, so that a tenth of FastCUT's contrast keeps it.
PAINTER = {
    "kind": "residual-unet",
    "widths": [32, 64, 96],
    "blocks": 1,
    "middle": 4,
    "bias": True,
}
FAST = {
    "adversarial_weight": 3.0,
    "contrast_weight": 1.0,
    "identity": False,
    "mirrored": True,
}

# fmt: off
TRANSLATE_ROWS: tuple[tuple[Any, ...], ...] = (
    # name           task        network      judge       loss   read  more                             kimg
    ("facades",      "translate", MAPPER,      SLIM_PATCH, "bce", 286, {"input": "right", **SEEN},      80),
    ("facades-hd",   "translate", SLIM_RESNET, TWO_SCALES, "mse", 286, {"input": "right", **MATCHED},   80),
    ("monet",        "cut",       PAINTER,     SLIM_PATCH, "mse", 256, {"source": "second", "window": 128, **FAST}, 200),
    ("monet-cycle",  "cyclegan",  SLIM_RESNET, SLIM_PATCH, "mse", 256, {"source": "second", "window": 128}, 200),
)
# fmt: on


def _translate(
    name: str,
    kind: str,
    network: dict[str, Any],
    judge: dict[str, Any],
    loss: str,
    read: int,
    more: dict[str, Any],
    kimg: float,
) -> Recipe:
    # It sees the input, too, where there are pairs.
    seen = {"channels": 6} if kind == "translate" else {}
    task = {"kind": kind, "generator": network, "discriminator": {**judge, **seen}, "loss": loss}
    fields = {"name": name, "task": {**task, "read": read, **more}, "batch": 4, "kimg": kimg}
    return Recipe.model_validate({**fields, "optimiser": USUAL, "ema_half_life": 5})


PRESETS: dict[str, Recipe] = {
    **{row[0]: _recipe(*row) for row in ROWS},
    **{row[0]: _restore(*row) for row in RESTORE_ROWS},
    **{row[0]: _inpaint(*row) for row in INPAINT_ROWS},
    **{row[0]: _style(*row) for row in STYLE_ROWS},
    **{row[0]: _translate(*row) for row in TRANSLATE_ROWS},
}
