"""The model: configuration, granularity controller, adaptive token aggregation, and the classes that join them."""

from .adata_granulon import AdaptiveTokenAggregation, AggregationOutput
from .configuration_granulon import GranulonConfig
from .granularity_granulon import GranularityController
from .modeling_granulon import GranulonForConditionalGeneration, GranulonModel


__all__ = [
    "AdaptiveTokenAggregation",
    "AggregationOutput",
    "GranularityController",
    "GranulonConfig",
    "GranulonForConditionalGeneration",
    "GranulonModel",
]
