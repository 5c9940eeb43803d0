"""Results of all processes, none lost and none left behind on the disk."""

from itertools import zip_longest
from typing import Any

from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process
from mmengine.evaluator import BaseMetric

_ABSENT = object()


class GatheredMetric(BaseMetric):
    """mmengine's ``BaseMetric`` with another way of bringing the results of several processes together.

    mmengine's own cuts them to the size of the dataset on the assumption of one result a sample, leaves a folder
    ``.dist_test`` in the working folder, and, when the scoring fails in the main process, lets the others wait until
    they time out. Here all results reach ``compute_metrics``, in the order of the dataset for mmengine's samplers;
    those of samples that a sampler repeated to fill up the last round come twice, so a child counts each ``image_id``
    once. An error is raised in every process.

    The argument ``collect_device`` is accepted for compatibility and has no effect.
    """

    default_prefix = ""

    def evaluate(self, size: int) -> dict[str, Any]:
        """The scores over the results of all processes; `size` is not needed."""
        parts = all_gather_object(list(self.results))
        self.results.clear()
        outcome: list[Any] = [None]
        if is_main_process():
            results = [r for row in zip_longest(*parts, fillvalue=_ABSENT) for r in row if r is not _ABSENT]
            try:
                outcome = [self.compute_metrics(results)]
            except Exception as error:
                outcome = [error]
        broadcast_object_list(outcome)
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        scores: dict[str, Any] = outcome[0]
        return {f"{self.prefix}/{name}": value for name, value in scores.items()} if self.prefix else scores
