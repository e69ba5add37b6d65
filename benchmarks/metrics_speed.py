"""Speed of fusion_metrics beside an evaluator in the style of the published one, on the CPU.

    python -m benchmarks.metrics_speed [--threads 2] [--repeats 5] [--cpu-time]

The evaluator here is written from the formulas with the tools the published one uses: numpy for the statistics
and Qabf, scipy's convolve2d with full windows for VIF, scikit-learn for MI and scikit-image for SSIM
(pip install scikit-learn scikit-image). It has one SSIM; fusion_metrics computes both. Both must agree before
anything is timed. Times are the fastest of the repeats, since whatever else runs only adds to them; on a busy
machine --cpu-time with one thread counts what the process itself used.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve2d
from skimage.metrics import structural_similarity
from sklearn.metrics import mutual_info_score

from ddfm_core.metrics import METRIC_NAMES, fusion_metrics

Array = NDArray[np.float64]
Clock = Callable[[], float]


def entropy(f: Array, _a: Array, _b: Array) -> float:
    """EN."""
    p = np.bincount(np.uint8(np.round(f)).ravel(), minlength=256) / f.size
    return float(-(p * np.log2(p + (p == 0))).sum())


def standard_deviation(f: Array, _a: Array, _b: Array) -> float:
    """SD."""
    return float(np.std(f))


def spatial_frequency(f: Array, _a: Array, _b: Array) -> float:
    """SF."""
    return float(np.sqrt(np.mean(np.diff(f, axis=0) ** 2) + np.mean(np.diff(f, axis=1) ** 2)))


def average_gradient(f: Array, _a: Array, _b: Array) -> float:
    """AG."""
    gy, gx = np.gradient(f)
    return float(np.mean(np.sqrt((gx**2 + gy**2) / 2)))


def mutual_information(f: Array, a: Array, b: Array) -> float:
    """MI."""
    return float(sum(mutual_info_score(f.ravel().astype(int), source.ravel().astype(int)) for source in (a, b)))


def mean_squared_error(f: Array, a: Array, b: Array) -> float:
    """MSE."""
    return float((np.mean((a - f) ** 2) + np.mean((b - f) ** 2)) / 2)


def peak_signal_to_noise(f: Array, a: Array, b: Array) -> float:
    """PSNR."""
    return float(10 * np.log10(np.max(f) ** 2 / mean_squared_error(f, a, b)))


def correlation(x: Array, y: Array) -> float:
    """Pearson's coefficient."""
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum()))


def correlation_coefficient(f: Array, a: Array, b: Array) -> float:
    """CC."""
    return (correlation(f, a) + correlation(f, b)) / 2


def correlations_of_differences(f: Array, a: Array, b: Array) -> float:
    """SCD."""
    return correlation(a, f - b) + correlation(b, f - a)


def information_fidelity(f: Array, a: Array, b: Array) -> float:
    """VIF."""
    return sum(information_fidelity_of_one(source, f) for source in (a, b))


def information_fidelity_of_one(source: Array, f: Array) -> float:
    """VIF towards one source."""
    passed = present = 0.0
    for size in (17, 9, 5, 3):
        offsets = np.arange(size) - size // 2
        window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * (size / 5) ** 2))
        window /= window.sum()
        if size < 17:
            source = convolve2d(source, window, mode="valid")[::2, ::2]
            f = convolve2d(f, window, mode="valid")[::2, ::2]
        m1, m2 = convolve2d(source, window, mode="valid"), convolve2d(f, window, mode="valid")
        s1 = np.maximum(convolve2d(source * source, window, mode="valid") - m1 * m1, 0)
        s2 = np.maximum(convolve2d(f * f, window, mode="valid") - m2 * m2, 0)
        s12 = convolve2d(source * f, window, mode="valid") - m1 * m2
        g = s12 / (s1 + 1e-10)
        sv = s2 - g * s12
        flat = s1 < 1e-10
        g[flat], sv[flat], s1[flat] = 0, s2[flat], 0
        flat = s2 < 1e-10
        g[flat], sv[flat] = 0, 0
        negative = g < 0
        sv[negative], g[negative] = s2[negative], 0
        sv = np.maximum(sv, 1e-10)
        passed += float(np.log10(1 + g**2 * s1 / (sv + 2)).sum())
        present += float(np.log10(1 + s1 / 2).sum())
    return passed / present


def edge_preservation(f: Array, a: Array, b: Array) -> float:
    """Qabf."""
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])

    def gradient(picture: Array) -> tuple[Array, Array]:
        sx = convolve2d(picture, kernel, mode="same")
        sy = convolve2d(picture, np.rot90(kernel), mode="same")
        angle = np.full_like(sx, np.pi / 2)
        angle[sx != 0] = np.arctan(sy[sx != 0] / sx[sx != 0])
        return np.sqrt(sx**2 + sy**2), angle

    def quality(strength: Array, angle: Array) -> Array:
        weaker, stronger = np.minimum(strength, strength_f), np.maximum(strength, strength_f)
        ratio = np.where(weaker == stronger, strength_f, weaker / np.where(stronger == 0, 1, stronger))
        agreement = 1 - np.abs(angle - angle_f) / (np.pi / 2)
        kept: Array = 0.9994 / (1 + np.exp(-15 * (ratio - 0.5))) * 0.9879 / (1 + np.exp(-22 * (agreement - 0.8)))
        return kept

    (strength_a, angle_a), (strength_b, angle_b), (strength_f, angle_f) = gradient(a), gradient(b), gradient(f)
    preserved = quality(strength_a, angle_a) * strength_a + quality(strength_b, angle_b) * strength_b
    return float(preserved.sum() / (strength_a + strength_b).sum())


def structure(f: Array, a: Array, b: Array) -> float:
    """SSIM with data range 2."""
    return float(sum(structural_similarity(f, source, data_range=2) for source in (a, b)))


PUBLISHED_STYLE: dict[str, Callable[[Array, Array, Array], float]] = {
    "EN": entropy,
    "SD": standard_deviation,
    "SF": spatial_frequency,
    "AG": average_gradient,
    "MI": mutual_information,
    "MSE": mean_squared_error,
    "CC": correlation_coefficient,
    "PSNR": peak_signal_to_noise,
    "SCD": correlations_of_differences,
    "VIF": information_fidelity,
    "Qabf": edge_preservation,
    "SSIM": structure,
}


def scene(side: int) -> tuple[Array, Array, Array]:
    """A fused picture and two sources with structure at several scales and some noise, whole values 0..255."""
    generator = np.random.default_rng(side)

    def source() -> Array:
        layers = [scale * gaussian_filter(generator.standard_normal((side, side)), scale) for scale in (1, 4, 16)]
        picture = sum(layers) + 0.05 * generator.standard_normal((side, side))
        low, high = np.quantile(picture, [0.01, 0.99])
        rounded: Array = np.round(255 * np.clip((picture - low) / (high - low), 0, 1))
        return rounded

    first, second = source(), source()
    return np.floor((first + second) / 2), first, second


def fastest(function: Callable[[], object], repeats: int, clock: Clock) -> float:
    """Milliseconds of the fastest of ``repeats`` calls, after one that warms up."""
    function()
    times = []
    for _ in range(repeats):
        start = clock()
        function()
        times.append(clock() - start)
    return 1e3 * min(times)


def compare(side: int, repeats: int, clock: Clock) -> None:
    """Print the table for one pair of side x side."""
    pictures = scene(side)
    fused, first, second = (torch.from_numpy(picture)[None] for picture in pictures)
    figures = fusion_metrics(fused, first, second)
    for name, reference in PUBLISHED_STYLE.items():
        np.testing.assert_allclose(figures[name].item(), reference(*pictures), rtol=1e-6, err_msg=name)

    print(f"\n{side} x {side}, {torch.get_num_threads()} threads")
    print(f"{'':10}{'published style':>18}{'fusion_metrics':>18}{'ratio':>9}")
    total = 0.0
    for name in METRIC_NAMES:
        ours = fastest(partial(fusion_metrics, fused, first, second, [name]), 4 * repeats, clock)
        if name not in PUBLISHED_STYLE:
            print(f"{name:10}{'':18}{ours:15.2f} ms")
            continue
        theirs = fastest(partial(PUBLISHED_STYLE[name], *pictures), repeats, clock)
        total += theirs
        print(f"{name:10}{theirs:15.2f} ms{ours:15.2f} ms{theirs / ours:8.1f}x")
    ours = fastest(partial(fusion_metrics, fused, first, second), 4 * repeats, clock)
    print(f"{'together':10}{total:15.2f} ms{ours:15.2f} ms{total / ours:8.1f}x")


def main() -> None:
    """Compare both evaluators on two sizes of pictures."""
    parser = argparse.ArgumentParser(description="Speed of fusion_metrics beside a published-style evaluator.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true", help="CPU seconds of the process instead of the clock's")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for side in (256, 512):
        compare(side, arguments.repeats, time.process_time if arguments.cpu_time else time.perf_counter)


if __name__ == "__main__":
    main()
