"""Distances against independent computations, the evaluator, and its command line."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.models import mobilenet_v2, squeezenet1_1

from imagen_nodes import checkpoint, latents
from imagen_nodes.__main__ import main
from imagen_nodes.errors import DataError, UsageError
from imagen_nodes.evaluation import distances, evaluator, inception, neighbours, paired
from imagen_nodes.evaluation.evaluator import Evaluator
from imagen_nodes.evaluation.features import FeatureSpace, mobilenet_network
from imagen_nodes.images import as_rgb, to_network, to_pixels
from imagen_nodes.networks.dcgan import DCGANGenerator

CPU = torch.device("cpu")


def features(count, seed, scale=1.0):
    random = np.random.RandomState(seed)
    mix = np.random.RandomState(7).randn(6, 6)
    return torch.from_numpy((random.randn(count, 6) * scale) @ mix).float()


def moments(x):
    return x.double().mean(0).numpy(), np.cov(x.double().numpy(), rowvar=False)


def plain_frechet(mean_a, a, mean_b, b):
    root = scipy.linalg.sqrtm(a @ b).real
    return float((mean_a - mean_b) @ (mean_a - mean_b)) + np.trace(a + b - 2 * root)


def frechet(real, fake):
    return distances.frechet_distance(distances.gaussian(real), distances.gaussian(fake))


def kernel(a, b):
    return (float(a @ b) / 6 + 1) ** 3


def test_frechet_distance_is_the_published_formula():
    real, fake = features(300, 0), features(200, 1, 1.5) + 0.3
    wanted = plain_frechet(*moments(real), *moments(fake))
    assert frechet(real, fake) == pytest.approx(wanted, rel=1e-6)
    assert frechet(real, real) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_with_fewer_samples_than_features():
    random = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(n, 16, generator=random) for n in (4, 5))
    (mean_a, a), (mean_b, b) = moments(real), moments(fake)
    values = np.linalg.eigvals(a @ b)
    wanted = np.square(mean_a - mean_b).sum() + np.trace(a + b)
    wanted -= 2 * np.sqrt(values.real.clip(0)).sum()
    assert frechet(real, fake) == pytest.approx(wanted, rel=1e-4)


def test_kernel_distance_is_the_unbiased_estimate():
    real, fake = features(40, 0), features(40, 1) + 1
    x, y = real.double().numpy(), fake.double().numpy()
    n = 40
    within = sum(
        kernel(z[i], z[j]) for z in (x, y) for i in range(n) for j in range(n) if i != j
    ) / (n * (n - 1))
    across = sum(kernel(x[i], y[j]) for i in range(n) for j in range(n)) / n**2
    assert distances.kernel_distance(real, fake) == pytest.approx(within - 2 * across, rel=1e-9)


def test_blocks_change_nothing(monkeypatch):
    real, fake = features(50, 0), features(40, 1) + 1

    def everything():
        a, b = distances.gaussian(real), distances.gaussian(fake)
        radii = distances.radii(real), distances.radii(fake)
        return [
            distances.frechet_distance(a, b),
            *distances.frechet_influence(a, b, fake).tolist(),
            *distances.kernel_influence(real, fake).tolist(),
            *distances.precision_recall(real, fake, *radii),
        ]

    whole = everything()
    monkeypatch.setattr(distances, "BLOCK", 130)
    assert everything() == pytest.approx(whole, rel=1e-4, abs=1e-6)


def test_precision_and_recall_by_hand():
    real = torch.tensor([[0.0], [1.0], [2.0], [3.0], [100.0]])
    fake = torch.tensor([[0.5], [1.5], [2.5], [50.0], [3.5]])
    # Third neighbours: of the real ones at 3, 2, 2, 3, 99, whose balls hold every generated one;
    # of the generated ones at 3, 2, 2, 48.5, 3, none of which reaches 100.
    radii = distances.radii(real), distances.radii(fake)
    assert radii[0].sqrt().tolist() == [3, 2, 2, 3, 99]
    assert distances.precision_recall(real, fake, *radii) == (1.0, pytest.approx(0.8))


def test_inception_score_is_the_published_formula():
    x, classes = features(40, 0), torch.from_numpy(np.random.RandomState(1).randn(5, 6)).float()
    p = scipy.special.softmax((x @ classes.t()).double().numpy(), axis=1)
    scores = [
        np.exp((part * (np.log(part) - np.log(part.mean(0)))).sum(1).mean())
        for part in np.split(p, 10)
    ]
    assert distances.inception_score(x, classes) == pytest.approx(np.mean(scores), rel=1e-6)


def test_the_figures_are_torch_fidelitys():
    """Of the same features."""
    from torch_fidelity.metric_fid import fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    real, fake = features(600, 0), features(500, 1, 1.2) + 0.5
    statistics = [dict(zip(("mu", "sigma"), moments(x), strict=True)) for x in (fake, real)]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)
    assert frechet(real, fake) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    options = {"kid_subsets": 200, "kid_subset_size": 300, "verbose": False}
    theirs = kid_features_to_metric(fake, real, **options)
    scatter = theirs["kernel_inception_distance_std"]
    assert distances.kernel_distance(real, fake) == pytest.approx(
        theirs["kernel_inception_distance_mean"], abs=scatter
    )
    theirs = prc_features_to_metric(fake, real, prc_neighborhood=3, verbose=False)
    radii = distances.radii(real), distances.radii(fake)
    precision, recall = distances.precision_recall(real, fake, *radii)
    assert precision == pytest.approx(theirs["precision"], abs=1e-6)
    assert recall == pytest.approx(theirs["recall"], abs=1e-6)
    theirs = isc_features_to_metric(fake, splits=10, shuffle=False)
    ours = distances.inception_score(fake, torch.eye(6))
    assert ours == pytest.approx(theirs["inception_score_mean"], rel=1e-5)


def test_frechet_influence_is_the_derivative():
    real, fake = features(300, 0), features(60, 1, 1.5) + 0.3
    mean, covariance = moments(fake)
    step, wanted = 1e-5, []
    for x in fake.double().numpy():
        out = x - mean
        moved = [
            plain_frechet(*moments(real), mean + e * out, covariance + e * change)
            for e in (step, -step)
            for change in [np.outer(out, out) - covariance]
        ]
        wanted.append((moved[0] - moved[1]) / (2 * step))
    found = distances.frechet_influence(distances.gaussian(real), distances.gaussian(fake), fake)
    np.testing.assert_allclose(found, np.array(wanted) - np.mean(wanted), rtol=1e-3, atol=1e-3)


def test_kernel_influence_is_twice_the_witness_function():
    real, fake = features(40, 0), features(30, 1) + 1
    x, y = real.double().numpy(), fake.double().numpy()
    witness = [np.mean([kernel(f, b) for b in y]) - np.mean([kernel(f, a) for a in x]) for f in y]
    wanted = 2 * (np.array(witness) - np.mean(witness))
    np.testing.assert_allclose(distances.kernel_influence(real, fake), wanted, rtol=1e-6)


@pytest.mark.parametrize("figure", ["frechet", "kernel"])
def test_the_interval_is_as_wide_as_figures_of_new_samples_scatter(figure, monkeypatch):
    monkeypatch.setattr(distances, "SUBSETS", 1)  # each holds all of so few
    real = features(900, 0)
    real_gaussian = distances.gaussian(real)
    values, widths = [], []
    for seed in range(1, 41):
        fake = features(900, seed, 1.2) + 0.5
        if figure == "frechet":
            gaussian = distances.gaussian(fake)
            value = distances.frechet_distance(real_gaussian, gaussian)
            influence = distances.frechet_influence(real_gaussian, gaussian, fake)
        else:
            value = distances.kernel_distance(real, fake)
            influence = distances.kernel_influence(real, fake)
        low, high = distances.interval(value, influence)
        assert low < value < high
        values.append(value)
        widths.append(high - low)
    # 40 values know their own deviation to 11%.
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(values, ddof=1), rel=0.35)


def test_the_features_are_torchvisions():
    network = mobilenet_network()
    plain = mobilenet_v2(weights=None).eval()
    plain.features.load_state_dict(network.features.state_dict())
    images = torch.rand(2, 3, 40, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pixels = F.interpolate((images + 1) / 2, (128, 128), mode="bilinear", antialias=True)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (pixels - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        wanted = F.adaptive_avg_pool2d(plain.features(pixels), 1).flatten(1)
    torch.testing.assert_close(network(images), wanted, rtol=1e-4, atol=1e-5)
    assert wanted.std() > 0.1


def test_pixels_come_back():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    assert torch.equal(to_pixels(to_network(pixels)), pixels)
    assert torch.equal(as_rgb(pixels), pixels.repeat(1, 1, 1, 3))
    rgba = torch.tensor([[[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]]], dtype=torch.uint8)
    assert as_rgb(rgba).tolist() == [[[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]]


@dataclass(frozen=True)
class Set:
    images: np.ndarray
    name: str = "a set"


def noise(count, side=16, channels=3, seed=0):
    shape = (count, side, side, channels)
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def means(pixels):
    """Features that are quick: means of 4 x 4 blocks."""
    return F.avg_pool2d(pixels.permute(0, 3, 1, 2).float(), 8).flatten(1)


SPACE = FeatureSpace("means", "FD", "KD", 12, CPU, means)


def generator(**more):
    architecture = DCGANGenerator(resolution=16, width=8, **more)
    network = architecture.build()
    network.initialise(torch.Generator().manual_seed(0))
    return architecture, network


def test_images_are_measured_in_batches_and_nothing_is_kept(monkeypatch):
    monkeypatch.setattr(evaluator, "BATCH", 4)
    largest = 0

    def extract(pixels):
        nonlocal largest
        largest = max(largest, len(pixels))
        return means(pixels)

    done = []
    architecture, network = generator()
    network.train()
    measured = Evaluator(
        FeatureSpace("means", "FD", "KD", 12, CPU, extract), Set(noise(30)), report=done.append
    )
    figures = measured.figures(architecture, network, 21)
    assert largest == 4
    assert sum(done) == 51
    assert all(module.training for module in network.modules())

    network.eval()
    z = latents.sample(21, architecture.z_dim, 0).z
    with torch.no_grad():
        fake = means(to_pixels(network(z)))
    real = means(torch.from_numpy(noise(30)))
    assert figures[0].value == pytest.approx(frechet(real, fake), rel=1e-3)
    assert figures[0].low < figures[0].value < figures[0].high
    assert [figure.metric for figure in figures] == [
        "FD",
        "KD",
        "precision (means, k=3)",
        "recall (means, k=3)",
    ]


def test_classes_take_turns():
    architecture, network = generator(classes=3)
    (batch,) = evaluator.draw(architecture, network, range(5), CPU)
    network.eval()
    for seed in range(5):
        drawn = latents.sample(1, architecture.z_dim, seed)
        with torch.no_grad():
            image = network(drawn.z, torch.tensor([seed % 3]))
        torch.testing.assert_close(batch[seed], to_pixels(image)[0], atol=1, rtol=0)


def test_features_of_real_pictures_are_kept_by_their_content(tmp_path):
    calls = []

    def extract(pixels):
        calls.append(len(pixels))
        return means(pixels)

    space = FeatureSpace("means", "FD", "KD", 12, CPU, extract)
    first = Evaluator(space, Set(noise(30)), cache=tmp_path).real
    again = Evaluator(space, Set(noise(30)), cache=tmp_path).real
    assert calls == [30]
    assert torch.equal(first, again)
    other = Evaluator(space, Set(noise(30, seed=1)), cache=tmp_path).real
    assert calls == [30, 30]
    assert not torch.equal(first, other)
    for file in tmp_path.iterdir():
        file.write_bytes(b"damaged")
    assert torch.equal(Evaluator(space, Set(noise(30)), cache=tmp_path).real, first)


def test_some_of_the_real_pictures():
    pictures = Set(noise(30))
    some = Evaluator(SPACE, pictures, 8)
    assert some.reference == "8 images of a set"
    assert torch.equal(some.real, Evaluator(SPACE, pictures).real[some.indices])
    with pytest.raises(DataError, match="31 are asked for, it has 30"):
        _ = Evaluator(SPACE, pictures, 31).real
    with pytest.raises(DataError, match="4 are asked for, it has 3"):
        _ = Evaluator(SPACE, Set(noise(3))).real


def test_too_few_samples():
    with pytest.raises(UsageError, match="3 samples: at least 4"):
        Evaluator(SPACE, Set(noise(30))).figures(*generator(), 3)


@pytest.mark.parametrize(
    ("real", "samples", "texts"),
    [
        (10_000, 10_000, []),
        (10_000, 9_999, ["9,999 samples: FD is too high, compare figures of as many only"]),
        (13, 10_000, ["13 real pictures: FD is too high, compare figures of as many only"]),
        (10_000, 12, ["12 samples do not determine the covariance of 12 features: FD is no"]),
    ],
)
def test_figures_of_few_images_are_doubted(real, samples, texts):
    doubts = Evaluator(SPACE, Set(np.zeros((real, 1, 1, 3), np.uint8))).doubts(samples)
    assert len(doubts) == len(texts)
    for doubt, text in zip(doubts, texts, strict=True):
        assert doubt.startswith(text)


def test_copies_are_found():
    pictures = Set(noise(60))
    measured = Evaluator(SPACE, pictures)
    fresh = means(torch.from_numpy(noise(40, seed=1)))
    found = neighbours.find(measured, fresh)
    gaps = torch.cdist(fresh.double(), measured.real.double())
    others = torch.cdist(measured.real.double(), measured.real.double())
    others.fill_diagonal_(float("inf"))
    usual = others.min(1).values.median()
    np.testing.assert_allclose(found.fake, gaps.min(1).values / usual, rtol=1e-4)
    np.testing.assert_allclose(found.real, others.min(1).values / usual, rtol=1e-4)
    assert torch.equal(found.indices, gaps.argsort(1)[:, :7])
    assert not found.copied
    assert "does not look like copying" in str(found)

    copies = measured.real[torch.arange(40)] + 0.01
    found = neighbours.find(measured, copies)
    assert found.copied
    assert found.indices[:, 0].tolist() == list(range(40))
    assert "this looks like copying" in str(found)


def test_pictures_of_which_many_are_equal_are_no_copies():
    pictures = Set(np.concatenate([noise(30), noise(30)]))
    measured = Evaluator(SPACE, pictures)
    found = neighbours.find(measured, means(torch.from_numpy(noise(40, seed=1))))
    assert not found.copied
    assert found.real.max() == 0


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a small generator and some pictures."""
    monkeypatch.chdir(tmp_path)
    Path("real").mkdir()
    for i, pixels in enumerate(noise(12)):
        Image.fromarray(pixels).save(f"real/{i}.png")
    architecture, network = generator()
    card = checkpoint.Card(
        title="small", architecture=architecture.model_dump(mode="json"), task="generate"
    )
    checkpoint.save(Path("small.safetensors"), card, network)


def test_figures_are_printed_and_kept(place, capsys):
    call = ["evaluate", "small.safetensors", "--data", "real", "--samples", "10"]
    more = ["--reference", "8", "--neighbours", "near.png", "--cache", "cache", "--device", "cpu"]
    assert main([*call, *more, "--json", "--save"]) == 0
    found = json.loads(capsys.readouterr().out)
    figures = found["figures"]
    assert [figure["metric"].split()[0] for figure in figures] == [
        "FD-MobileNetV2",
        "KID-MobileNetV2",
        "precision",
        "recall",
    ]
    assert figures[0]["low"] < figures[0]["value"] < figures[0]["high"]
    assert figures[0]["reference"] == "8 images of real"
    assert len(found["warnings"]) == 2
    assert found["neighbours"]["ratio"] > 0
    with Image.open("near.png") as sheet:
        assert sheet.size == (8 * 18 - 2, 10 * 18 - 2)
    assert [file.name.split("-")[0] for file in Path("cache").iterdir()] == ["features"]
    kept = checkpoint.inspect(Path("small.safetensors")).card
    assert [m.model_dump() for m in kept.quality] == figures
    assert kept.title == "small"
    assert main(call) == 0
    captured = capsys.readouterr()
    assert "10 samples against 12 images of real" in captured.out
    assert "warning: 10 samples do not determine the covariance" in captured.err


@pytest.mark.parametrize(
    ("call", "code", "text"),
    [
        (["small.safetensors", "--data", "none"], 1, "none: no such folder"),
        (["none.safetensors", "--data", "real"], 1, "no weights 'none.safetensors'. There is: "),
        (["x/none.safetensors", "--data", "real"], 1, "x/none.safetensors: no such file"),
        (["small.safetensors", "--data", "real", "--reference", "13"], 1, "it has 12"),
        (["small.safetensors", "--data", "real", "--samples", "3"], 2, "--samples takes 4"),
        (["small.safetensors", "--data", "real", "--samples", "1" * 13], 2, "4 to 1,000,000"),
        (["small.safetensors", "--data", "real", "--reference", "3"], 2, "--reference takes 4"),
        (["small.safetensors", "--data", "real", "--ensemble"], 2, "restore or enlarge pictures"),
        (["small.safetensors", "--data", "real", "--device", "moon"], 2, "moon"),
        (["small.safetensors", "--data", "real", "--neighbours", "a.gif"], 2, "a .png file"),
    ],
)
def test_what_cannot_be_evaluated(place, call, code, text, capsys):
    assert main(["evaluate", *call]) == code
    assert text in capsys.readouterr().err


# ------------------------------------------------------------------------------ Inception


@pytest.fixture
def inception_file(tmp_path, monkeypatch):
    """Random weights of torch-fidelity's network under the published file's name."""
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    path = tmp_path / inception.FILE
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        torch.save({}, path)
        patch.setattr(torch.nn.Module, "load_state_dict", lambda self, state: None)
        network = fidelity.FeatureExtractorInceptionV3("inception", ["2048"], str(path))
    torch.save(network.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "SHA256", digest[:8])
    return path


def test_fid_kid_and_is(place, inception_file, capsys):
    call = ["evaluate", "small.safetensors", "--data", "real", "--samples", "6", "--json"]
    assert main([*call, "--inception", str(inception_file)]) == 0
    found = json.loads(capsys.readouterr().out)["figures"]
    names = [figure["metric"] for figure in found[4:]]
    assert names == ["FID", "KID", "precision (Inception, k=3)", "recall (Inception, k=3)", "IS"]
    assert all(np.isfinite(figure["value"]) for figure in found)
    assert found[-1]["value"] >= 1


def test_only_the_published_inception(place, inception_file, capsys):
    content = bytearray(inception_file.read_bytes())
    content[-1] ^= 1
    inception_file.write_bytes(content)
    call = ["evaluate", "small.safetensors", "--data", "real", "--samples", "6", "--inception"]
    assert main([*call, str(inception_file)]) == 1
    assert "damaged, or not the Inception network of FID" in capsys.readouterr().err
    assert main([*call, "none.pth"]) == 1
    assert "none.pth: cannot be read: No such file" in capsys.readouterr().err


def test_without_a_network_it_says_what_to_get(place, monkeypatch, capsys):
    pytest.importorskip("torch_fidelity")
    monkeypatch.setenv("TORCH_HOME", "torch")

    def offline(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    call = ["evaluate", "small.safetensors", "--data", "real", "--samples", "6", "--inception"]
    assert main(call) == 1
    error = capsys.readouterr().err
    assert "cannot be downloaded (no route to host). Get pt_inception-2015-12-05" in error


# ------------------------------------------------------------------------------ paired pictures


def blurred(images):
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)


def test_psnr_by_hand():
    """All channels 10 levels off: 20 log10(255 / 10); luma weights sum to 219 / 255."""
    a = torch.zeros(1, 3, 12, 12)
    b = a + 20 / 255
    assert paired.psnr_rgb(a, b).item() == pytest.approx(20 * np.log10(25.5), rel=1e-5)
    luma = 20 * np.log10(255 / (10 * 219 / 255))
    assert paired.psnr_y(a, b).item() == pytest.approx(luma, rel=1e-4)
    b[..., 0] = -1  # the border
    assert paired.psnr_rgb(a, b, crop=1).item() == pytest.approx(20 * np.log10(25.5), rel=1e-5)
    assert paired.psnr_rgb(a, a).item() == float("inf")


def test_paired_figures_are_torchmetrics():
    functional = pytest.importorskip("torchmetrics.functional.image")
    a = torch.rand(2, 3, 40, 36, generator=torch.Generator().manual_seed(0)) * 2 - 1
    a = blurred(a)
    b = blurred(a)
    for x, y, ours in zip(a, b, paired.psnr_rgb(a, b), strict=True):
        theirs = functional.peak_signal_noise_ratio(x + 1, y + 1, data_range=2.0)
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    y, z = paired.luma(a), paired.luma(b)
    theirs = functional.structural_similarity_index_measure(
        y.double(),
        z.double(),
        sigma=1.5,
        data_range=255.0,
        reduction="none",
    )
    # Theirs pads, which spoils 5 px of border more than the windows that ours takes.
    assert paired.ssim_y(a, b).tolist() == pytest.approx(theirs.tolist(), abs=0.02)


def test_ssim_is_the_published_formula():
    a = blurred(torch.rand(1, 3, 14, 13, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    b = blurred(a)
    x, y = (paired.luma(images)[0, 0].double().numpy() for images in (a, b))
    offset = np.arange(11) - 5
    window = np.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for top in range(4):
        for left in range(3):
            p, q = (image[top : top + 11, left : left + 11] for image in (x, y))
            mean_p, mean_q = (window * p).sum(), (window * q).sum()
            var_p, var_q = (window * (p - mean_p) ** 2).sum(), (window * (q - mean_q) ** 2).sum()
            cov = (window * (p - mean_p) * (q - mean_q)).sum()
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            above = (2 * mean_p * mean_q + c1) * (2 * cov + c2)
            values.append(above / ((mean_p**2 + mean_q**2 + c1) * (var_p + var_q + c2)))
    assert paired.ssim_y(a, b).item() == pytest.approx(np.mean(values), rel=1e-5)
    assert paired.ssim_y(a, a).item() == pytest.approx(1)


def test_lpips_is_the_published_formula():
    """Features of torchvision's network, unit length, squared differences through the heads."""
    ours = paired.lpips_network()
    plain = squeezenet1_1(weights=None).features
    plain.load_state_dict({k: v.float() for k, v in ours.features.state_dict().items()})
    random = torch.Generator().manual_seed(0)
    a = blurred(torch.rand(2, 3, 40, 48, generator=random) * 2 - 1)
    b = blurred(a)
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
    x, y, wanted = (a - shift) / scale, (b - shift) / scale, torch.zeros(2)
    heads = iter(ours.heads)
    with torch.no_grad():
        for number, layer in enumerate(plain):
            x, y = layer(x), layer(y)
            if number in (1, 4, 7, 9, 10, 11, 12):
                p, q = (z / z.norm(dim=1, keepdim=True).clamp(min=1e-10) for z in (x, y))
                weight = next(heads).weight.view(1, -1, 1, 1)
                wanted += (weight * (p - q) ** 2).sum(1).mean((1, 2))
        torch.testing.assert_close(ours(a, b), wanted, rtol=1e-4, atol=1e-6)
        assert (ours(a, a) == 0).all()
        assert (ours(a, b) > 0.01).all()
    # A gradient exists even where pictures are equal.
    a.requires_grad_()
    (slope,) = torch.autograd.grad(ours(a, a.detach()).sum(), a)
    assert slope.isfinite().all()


def test_pictures_are_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        Path(folder).mkdir()
    for i in range(2):
        pixels = noise(1, side=32, seed=i)[0]
        Image.fromarray(pixels).save(f"a/{i}.png")
        Image.fromarray(pixels // 2).save(f"b/{i}.bmp")
    assert main(["compare", "a", "b", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["pictures"]) == {"0", "1"}
    x, y = noise(1, side=32)[0].astype(float), (noise(1, side=32)[0] // 2).astype(float)
    wanted = 10 * np.log10(255**2 / np.square(x - y).mean())
    assert found["pictures"]["0"]["PSNR-RGB"] == pytest.approx(wanted, rel=1e-4)
    assert found["pictures"]["0"]["LPIPS"] > 0
    # Two equal ones do not hide the others: they count as 100 dB.
    Image.open("a/1.png").save("b/1.bmp")
    assert main(["compare", "a", "b", "--json"]) == 0
    mixed = json.loads(capsys.readouterr().out)
    assert mixed["pictures"]["1"]["PSNR-RGB"] is None
    assert mixed["mean"]["PSNR-RGB"] == pytest.approx((wanted + 100) / 2, rel=1e-4)
    assert main(["compare", "a/0.png", "a/0.png"]) == 0
    assert "inf" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (["a", "none"], "no such file: none"),
        (["a", "a/0.png"], "one is a file, one a folder"),
        (["a", "c"], "1 pictures are in one of the two folders only: a/0"),
        (["a/0.png", "small.png"], "they must be of one size"),
        (["small.png", "small.png"], "needs 17 px each way"),
        (["a/0.png", "a/0.png", "--crop", "-1"], "--crop takes 0 or more"),
    ],
)
def test_what_cannot_be_compared(tmp_path, monkeypatch, capsys, call, text):
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    Path("c").mkdir()
    Image.fromarray(noise(1, side=32)[0]).save("a/0.png")
    Image.fromarray(noise(1, side=16)[0]).save("small.png")
    assert main(["compare", *call]) != 0
    assert text in capsys.readouterr().err
