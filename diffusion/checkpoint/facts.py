"""What follows from a run's settings and its data: known once the data is read, and stored next to the settings.

A run's settings are what was asked for, and are never changed. Its facts are arguments of the network (the channels and
classes of the images, the labels of the augmentation, the coordinates of crops), and `guidance_step`: the step whose
weights guide the run's own samples.
"""

from collections.abc import Mapping
from typing import Any

Facts = Mapping[str, int]
ARGUMENTS = ("in_channels", "out_channels", "classes", "augment", "coordinates")


def model_of(config: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """The node of a network in a configuration, with the arguments that are facts. Both may be a stranger's."""
    return {**config["model"], **{key: facts[key] for key in ARGUMENTS if isinstance(facts.get(key), int)}}
