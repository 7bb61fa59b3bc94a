"""The mean logarithm of the training losses, as a metric of `evaluate`.

metric = evaluate.load("glue_scripts/mean_log_loss.py")
metric.compute(predictions=losses)
"""

from __future__ import annotations

import datasets
import evaluate

import hf_sls

_DESCRIPTION = """
L = (1/T) sum_t log l_t over the training losses l_t: an area under the curve that values every halving of the loss
alike. Lower is better.
"""


class MeanLogLoss(evaluate.Metric):
    """`hf_sls.mean_log_loss` over the losses that were added as predictions."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description="predictions: the training loss of every step.",
            features=datasets.Features({"predictions": datasets.Value("float64")}),
        )

    def _compute(self, predictions: list[float]) -> dict[str, float]:
        return {"mean_log_loss": hf_sls.mean_log_loss(list(predictions))}
