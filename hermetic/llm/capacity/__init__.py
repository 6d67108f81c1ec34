"""What a model will take of a device, from its ``config.json`` alone, before a GPU hour is spent."""

from hermetic.llm.capacity.estimate import Estimate, Serving, estimate
from hermetic.llm.capacity.formats import KV_FORMATS, WEIGHT_FORMATS, WeightFormat
from hermetic.llm.capacity.shape import Shape, read_shape

__all__ = ["KV_FORMATS", "WEIGHT_FORMATS", "Estimate", "Serving", "Shape", "WeightFormat", "estimate", "read_shape"]
