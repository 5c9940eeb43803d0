"""What a dataset, a model and a metric hand to one another for one picture."""

from typing import Any

from mmengine.structures import BaseDataElement


class DataSample(BaseDataElement):
    """One picture's annotations and predictions.

    Ground truth: ``gt_caption`` (str or list of str), ``question``, ``gt_answer`` …
    Predictions: ``pred_caption`` (str, or list of str when several were asked for), ``pred_score``, ``pred_answer``.
    Meta information (``image_id``, ``img_path``, ``ori_shape`` …) is set with `set_metainfo` and read as an attribute.

    A `DataSample` holds any Python value in its fields, not only tensors.
    """

    def __init__(self, *, metainfo: dict[str, Any] | None = None, **fields: Any) -> None:
        super().__init__(metainfo=metainfo, **fields)
