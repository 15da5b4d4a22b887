"""Generative models. Exact ones (linear-Gaussian, discrete) are the oracles of the tests."""

from avi.models.discrete import HMM, FiniteMixture
from avi.models.fields import GaussianChain, GaussianField, NormalNormal, Saw
from avi.models.hierarchical import BottomUp, Hierarchical, hierarchical_mlp
from avi.models.image import (
    Bernoulli,
    Counts,
    DeepLatentGaussian,
    GaussianNoise,
    bernoulli_mlp,
    gaussian_mlp,
    multinomial_mlp,
)
from avi.models.linear_gaussian import AffineEncoder, LinearGaussian
from avi.models.pixels import PixelEncoder, PixelVAE
from avi.models.sequence import SequenceEncoder, SequenceModel, oracle, uniform_
from avi.models.text import TextEncoder, TextVAE, drawn, keyed, most_likely

__all__ = [
    "HMM",
    "AffineEncoder",
    "Bernoulli",
    "BottomUp",
    "Counts",
    "DeepLatentGaussian",
    "FiniteMixture",
    "GaussianChain",
    "GaussianField",
    "GaussianNoise",
    "Hierarchical",
    "LinearGaussian",
    "NormalNormal",
    "PixelEncoder",
    "PixelVAE",
    "Saw",
    "SequenceEncoder",
    "SequenceModel",
    "TextEncoder",
    "TextVAE",
    "bernoulli_mlp",
    "drawn",
    "gaussian_mlp",
    "hierarchical_mlp",
    "keyed",
    "most_likely",
    "multinomial_mlp",
    "oracle",
    "uniform_",
]
