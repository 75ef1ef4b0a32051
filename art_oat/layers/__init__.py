"""What a conditional network is made of; every file here is imported, so that what it registers is known."""

import importlib
import pkgutil

from art_oat.layers.base import AffineLayer, ConditionalLayer, ConvertedLayer
from art_oat.layers.batch_norm import BatchNormLayer, DualAffineBatchNorm, DualBatchNorm, SingleBatchNorm
from art_oat.layers.encoding import DEFAULT_LAMBDAS, Encoding, EncodingKind
from art_oat.layers.film import FILMS, FiLM, LinearFiLM, NarrowFiLM, PublishedFiLM, TwoLayerFiLM, register_film
from art_oat.layers.filmed import FilmedLayer, can_be_filmed, film_layer
from art_oat.layers.norm import NormLayer
from art_oat.layers.norm_act import FollowedNorm, split
from art_oat.layers.norm_kinds import convert_sample_norm, is_sample_norm
from art_oat.layers.sample_norm import SampleNorm
from art_oat.layers.slim_rules import ChannelwiseRule, SlimRule, slim_rule
from art_oat.layers.slimmable import Slimmable, Switch, slimmable

__all__ = [
    "DEFAULT_LAMBDAS",
    "FILMS",
    "AffineLayer",
    "BatchNormLayer",
    "ChannelwiseRule",
    "ConditionalLayer",
    "ConvertedLayer",
    "DualAffineBatchNorm",
    "DualBatchNorm",
    "Encoding",
    "EncodingKind",
    "FiLM",
    "FilmedLayer",
    "FollowedNorm",
    "LinearFiLM",
    "NarrowFiLM",
    "NormLayer",
    "PublishedFiLM",
    "SampleNorm",
    "SingleBatchNorm",
    "SlimRule",
    "Slimmable",
    "Switch",
    "TwoLayerFiLM",
    "can_be_filmed",
    "convert_sample_norm",
    "film_layer",
    "is_sample_norm",
    "register_film",
    "slim_rule",
    "slimmable",
    "split",
]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
