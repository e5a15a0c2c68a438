"""Layers that keep what is frozen inside them, which a Keras config leaves out."""

from collections.abc import Iterator, Mapping
from typing import Any

import keras

KEY = "trainable_parts"


class TrainableParts(keras.layers.Layer):
    """A layer whose config has the `trainable` of its parts and variables, where it is their own.

    What is made only when the layer is built gets its own then.
    """

    _awaited: tuple[tuple[str, bool], ...] = ()

    @keras.layers.Layer.trainable.setter
    def trainable(self, value: bool) -> None:
        """Set it for the layer and all that is inside."""
        keras.layers.Layer.trainable.fset(self, value)
        self._awaited = ()

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild this layer, and what is frozen in it."""
        own = dict(self._awaited)
        for place, owner, part in _walk(self):
            if part.trainable != owner.trainable:
                own[place] = part.trainable
        return {**super().get_config(), **({KEY: own} if own else {})}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Return the layer of a config."""
        layer = super().from_config({name: x for name, x in config.items() if name != KEY})
        layer._set(config.get(KEY, {}))
        return layer

    def _post_build(self) -> None:
        super()._post_build()
        self._set(dict(self._awaited))

    def _set(self, flags: Mapping[str, bool]) -> None:
        missing = dict(flags)
        for place, _, part in _walk(self):
            if place in missing:
                part.trainable = missing.pop(place)
        self._awaited = tuple(missing.items())


def copy_trainable(source: keras.Layer, target: keras.Layer) -> None:
    """Copy `trainable` of a layer, and of all that both have inside, to one of the same class."""
    target.trainable = source.trainable
    flags = {place: part.trainable for place, _, part in _walk(source)}
    for place, _, part in _walk(target):
        part.trainable = flags.get(place, part.trainable)


def _walk(layer: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (place, owner, part) of all layers and variables inside a layer, outer ones first."""
    for index, variable in enumerate(layer._trainable_variables):
        yield f"{place}variable_{index}", layer, variable
    for index, part in enumerate(layer._layers):
        yield f"{place}layer_{index}", layer, part
        yield from _walk(part, f"{place}layer_{index}/")
