"""Distances against independent computations, and the evaluator's command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.models import mobilenet_v2

from imagen_nodes import checkpoint
from imagen_nodes.__main__ import main
from imagen_nodes.evaluation.distances import frechet_distance, kernel_distance, precision_recall
from imagen_nodes.evaluation.evaluate import feature_network
from imagen_nodes.networks.dcgan import DCGANGenerator


def features(count, seed, scale=1.0):
    random = np.random.RandomState(seed)
    mix = np.random.RandomState(7).randn(6, 6)
    return torch.from_numpy((random.randn(count, 6) * scale) @ mix).float()


def test_frechet_distance_is_the_published_formula():
    real, fake = features(300, 0), features(200, 1, 1.5) + 0.3
    mean = real.double().mean(0) - fake.double().mean(0)
    a, b = (np.cov(x.double().numpy(), rowvar=False) for x in (real, fake))
    root = scipy.linalg.sqrtm(a @ b).real
    wanted = float(mean @ mean) + np.trace(a + b - 2 * root)
    assert frechet_distance(real, fake) == pytest.approx(wanted, rel=1e-6)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_with_fewer_samples_than_features():
    real, fake = torch.randn(4, 16), torch.randn(5, 16)
    a, b = (np.cov(x.double().numpy(), rowvar=False) for x in (real, fake))
    values = np.linalg.eigvals(a @ b)
    mean = (real.double().mean(0) - fake.double().mean(0)).square().sum()
    wanted = float(mean) + np.trace(a + b) - 2 * np.sqrt(values.real.clip(0)).sum()
    assert frechet_distance(real, fake) == pytest.approx(wanted, rel=1e-4)


def test_kernel_distance_is_the_unbiased_estimate():
    real, fake = features(40, 0), features(40, 1) + 1
    x, y = real.double().numpy(), fake.double().numpy()

    def kernel(a, b):
        return (float(a @ b) / 6 + 1) ** 3

    n = 40
    within = sum(
        kernel(z[i], z[j]) for z in (x, y) for i in range(n) for j in range(n) if i != j
    ) / (n * (n - 1))
    across = sum(kernel(x[i], y[j]) for i in range(n) for j in range(n)) / n**2
    assert kernel_distance(real, fake) == pytest.approx(within - 2 * across, rel=1e-9)


def test_precision_and_recall_by_hand():
    real = torch.tensor([[0.0], [1.0], [2.0], [3.0], [100.0]])
    fake = torch.tensor([[0.5], [1.5], [2.5], [50.0], [3.5]])
    # Third neighbours: of the real ones at 3, 2, 2, 3, 99, whose balls hold every generated one;
    # of the generated ones at 3, 2, 2, 48.5, 3, none of which reaches 100.
    assert precision_recall(real, fake) == (1.0, pytest.approx(0.8))


def test_the_features_are_torchvisions():
    network = feature_network()
    plain = mobilenet_v2(weights=None).eval()
    plain.features.load_state_dict(network.features.state_dict())
    images = torch.rand(2, 3, 40, 32) * 2 - 1
    pixels = F.interpolate((images + 1) / 2, (128, 128), mode="bilinear", antialias=True)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (pixels - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        wanted = F.adaptive_avg_pool2d(plain.features(pixels), 1).flatten(1)
    torch.testing.assert_close(network(images), wanted, rtol=1e-4, atol=1e-5)
    assert wanted.std() > 0.1


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a small generator and some pictures."""
    monkeypatch.chdir(tmp_path)
    Path("real").mkdir()
    for i in range(12):
        noise = np.random.RandomState(i).randint(0, 256, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(noise).save(f"real/{i}.png")
    architecture = DCGANGenerator(resolution=16, width=8)
    network = architecture.build()
    network.initialise(torch.Generator().manual_seed(0))
    card = checkpoint.Card(
        title="small", architecture=architecture.model_dump(mode="json"), task="generate"
    )
    checkpoint.save(Path("small.safetensors"), card, network)


def test_figures_are_printed_and_kept(place, capsys):
    call = ["evaluate", "small.safetensors", "--data", "real", "--samples", "10"]
    assert main([*call, "--reference", "8", "--json", "--save"]) == 0
    captured = capsys.readouterr()
    figures = json.loads(captured.out)
    assert "10 samples: distances are too high" in captured.err
    assert [figure["metric"].split()[0] for figure in figures] == [
        "FD-MobileNetV2",
        "KID-MobileNetV2",
        "precision",
        "recall",
    ]
    assert figures[0]["value"] > 0
    assert figures[0]["reference"] == "8 images of real"
    kept = checkpoint.inspect(Path("small.safetensors")).card
    assert [m.model_dump() for m in kept.quality] == figures
    assert kept.title == "small"
    assert main(call) == 0
    assert "10 samples against 12 images of real" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("call", "code", "text"),
    [
        (["small.safetensors", "--data", "none"], 1, "none: no such folder"),
        (["none.safetensors", "--data", "real"], 1, "none.safetensors: no such file"),
        (["small.safetensors", "--data", "real", "--reference", "13"], 1, "it has 12"),
        (["small.safetensors", "--data", "real", "--samples", "1"], 2, "--samples takes 2"),
    ],
)
def test_what_cannot_be_evaluated(place, call, code, text, capsys):
    assert main(["evaluate", *call]) == code
    assert text in capsys.readouterr().err
