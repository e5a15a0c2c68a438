"""Multiception in place of the convolutions of anybody's network."""

from keras_multiception.surgery.plan import Site, plan_replacements
from keras_multiception.surgery.replace import replace_convolutions

__all__ = ["Site", "plan_replacements", "replace_convolutions"]
