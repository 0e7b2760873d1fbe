"""Styles of a generator: w of its latents, truncated, mixed, moved along directions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .checkpoint import Model
from .errors import CheckpointError, DataError
from .generation import check, generator_of
from .graph.host import Host
from .latents import Latents
from .networks.architecture import GeneratorArchitecture
from .networks.biggan import BigGANGeneratorNetwork
from .networks.styled import StyledNetwork

Method = Literal["sefa", "pca"]
# w that PCA looks at.
SAMPLED = 10_000


def to_w(host: Host, model: Model, latent: Latents) -> Latents:
    """The same as w ``[b layers w_dim]``; unchanged where it is w already.

    Raises:
        CheckpointError: the model has no styles, or the latents are of another one."""
    _styled(model)
    check(model, latent)
    if latent.w is not None:
        return latent
    return Latents(None, latent.labels, _w_plus(host, model, latent, 1.0, None))


def truncate(host: Host, model: Model, latent: Latents, psi: float, cutoff: int) -> Latents:
    """As w, moved towards the average of w: to ``psi`` of the way from it, in the first ``cutoff``
    layers (0: in all).

    Source: Karras et al., "A Style-Based Generator Architecture for GANs", 2019, appendix B.

    Raises:
        CheckpointError: as :func:`to_w`."""
    _styled(model)
    check(model, latent)
    layers = cutoff or None
    if latent.w is None:
        return Latents(None, latent.labels, _w_plus(host, model, latent, psi, layers))
    network = model.network
    assert isinstance(network, StyledNetwork)
    w = latent.w.clone()
    w[:, :layers] = torch.lerp(network.w_avg.cpu().float(), w[:, :layers], psi)
    return Latents(None, latent.labels, w)


def mix(
    host: Host, model: Model, first: Latents, second: Latents, start: int, end: int, every: bool
) -> Latents:
    """Styles of ``first``, but those of ``second`` in the layers ``start`` to ``end`` (counted from
    0; the last one included). Pairs, the shorter one repeated; with ``every``, each of the first
    with each of the second, row by row.

    Source: Karras et al. 2019, section 3.1.

    Raises:
        CheckpointError: as :func:`to_w`.
        DataError: ``end`` is before ``start``."""
    if end < start:
        raise DataError(f"layers {start} to {end}: the first comes first")
    a, b = (to_w(host, model, latent).w for latent in (first, second))
    assert a is not None
    assert b is not None
    if every:
        rows, columns = len(a), len(b)
        a, b = a.repeat_interleave(columns, 0), b.repeat(rows, 1, 1)
    else:
        count = max(len(a), len(b))
        a, b = (x[torch.arange(count) % len(x)] for x in (a, b))
    mixed = a.clone()
    mixed[:, start : end + 1] = b[:, start : end + 1]
    return Latents(None, None, mixed)


def find_directions(host: Host, model: Model, method: Method, count: int) -> Tensor:
    """``[count d]`` directions of w, or of z where there are no styles, of length 1, the strongest
    first.

    ``sefa``: those that change the layers that follow most, eigenvectors of their weights' A'A
    (Shen & Zhou, "Closed-Form Factorization of Latent Semantics in GANs", 2021, section 3.2).
    ``pca``: those in which w varies most (Harkonen et al., "GANSpace", 2020, section 2.1), over
    10,000 draws; of z alone there are none, since it varies alike in all.

    Raises:
        CheckpointError: the model draws no images; or it has no styles, and pca is asked for."""
    architecture = generator_of(model)
    network = model.network
    if method == "sefa":
        weights = (
            network.style_weights()
            if isinstance(network, StyledNetwork)
            else [_first_weight(model)]
        )
        matrix = torch.cat([weight.detach().float().cpu() for weight in weights])
        matrix = matrix / matrix.norm(dim=1, keepdim=True).clamp(min=1e-8)
        values, vectors = torch.linalg.eigh(matrix.t() @ matrix)
        found = vectors[:, values.argsort(descending=True)].t()
    elif architecture.styled:
        random = torch.Generator().manual_seed(0)
        z = torch.randn(SAMPLED, architecture.z_dim, generator=random)
        labels = torch.arange(SAMPLED) % architecture.classes if architecture.classes else None
        w = _w_plus(host, model, Latents(z, labels), 1.0, None)[:, 0]
        _, _, found = torch.linalg.svd(w - w.mean(0), full_matrices=False)
    else:
        raise CheckpointError(
            f"{model.name} has no styles, and its z varies alike in all directions: use sefa"
        )
    found = found[:count]
    # A sign that does not depend on the machine: the largest value is positive.
    largest = found.gather(1, found.abs().argmax(1, keepdim=True))
    return (found * largest.sign()).contiguous()


def edit(
    host: Host,
    model: Model,
    latent: Latents,
    directions: Tensor,
    number: int,
    strength: float,
    start: int,
    end: int,
) -> Latents:
    """Latents moved ``strength`` along direction ``number``; of w in the layers ``start`` to
    ``end``.

    Raises:
        CheckpointError: the latents or the directions are of another model.
        DataError: there is no such direction, or ``end`` is before ``start``."""
    if number >= len(directions):
        raise DataError(f"direction {number}: there are 0 to {len(directions) - 1}")
    if end < start:
        raise DataError(f"layers {start} to {end}: the first comes first")
    if generator_of(model).styled:
        latent = to_w(host, model, latent)
    else:
        check(model, latent)
    values = latent.values.clone()
    if values.shape[-1] != directions.shape[1]:
        raise CheckpointError(
            f"directions of {directions.shape[1]} values for latents of {values.shape[-1]}: find "
            f"them for {model.name}"
        )
    step = directions[number] * strength
    if values.ndim == 3:
        values[:, start : end + 1] += step
    else:
        values += step
    return latent.with_values(values, latent.labels)


def _styled(model: Model) -> GeneratorArchitecture:
    architecture = generator_of(model)
    if not architecture.styled:
        raise CheckpointError(
            f"{model.name}, a {model.card.architecture['kind']}, has no styles and no average of "
            "them. Of its z, Sample Noise truncates, Interpolate Latents and Edit Latents work"
        )
    return architecture


def _w_plus(host: Host, model: Model, latent: Latents, psi: float, cutoff: int | None) -> Tensor:
    assert latent.z is not None
    with host.running(model) as running, torch.inference_mode():
        network = running.network
        assert isinstance(network, StyledNetwork)
        labels = None if latent.labels is None else latent.labels.to(running.device)
        w = network.w_plus(latent.z.to(running.device), labels, psi, cutoff)
    return w.float().cpu()


def _first_weight(model: Model) -> Tensor:
    """``[n z_dim]``: what the first layer multiplies z with."""
    z_dim = generator_of(model).z_dim
    if isinstance(model.network, BigGANGeneratorNetwork):
        return model.network.z_weight()
    for name, tensor in model.network.state_dict().items():
        if not name.endswith("weight") or "embed" in name:
            continue
        if tensor.ndim == 4 and tensor.shape[0] >= z_dim:  # a transposed convolution's
            return tensor[:z_dim].flatten(1).t()
        if tensor.ndim == 2 and tensor.shape[1] >= z_dim:
            return tensor[:, :z_dim]
    raise CheckpointError(f"{model.name}: no layer of z was found in it")
