"""Metrics of image fusion, batched, equal to the evaluator that the published tables were made with."""

from ddfm_core.metrics.evaluator import METRIC_NAMES, evaluator_grey, fusion_metrics

__all__ = ["METRIC_NAMES", "evaluator_grey", "fusion_metrics"]
