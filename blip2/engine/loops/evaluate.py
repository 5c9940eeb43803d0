"""Validation and test: every sample once, scored in the data set's order by one process."""

from typing import Any

import torch
from mmengine.dist import all_gather_object, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.runner.base_loop import BaseLoop
from mmengine.structures import BaseDataElement
from torch.utils.data import DataLoader

from blip2.engine import random_state
from blip2.engine.data import Batch, Index, evaluation_loader, places, without_batches
from blip2.engine.hooks import VisualizationHook
from blip2.engine.precision import autocast, cast_for_inference, precision_name, precision_of
from blip2.engine.predictions import PredictionLog
from blip2.registry import LOOPS
from blip2.utils.fast_types import default_precision

# How many samples a metric is handed at a time.
CHUNK = 512


class BadImagesError(ValueError):
    """Pictures of a benchmark that could not be read; the text names them."""


class EvaluationLoop(BaseLoop):
    """Predicts all samples, then lets the evaluator see them in the order of the data set, on rank 0.

    Batches are laid out over the whole data set and dealt to the processes, so that the predictions don't depend on the
    number of processes. The questions about one picture come together, if data set and model can do that; a batch has
    no more of them than without. Metrics are given data samples (as dictionaries) and no ``data_batch``.

    Args:
        runner, dataloader, evaluator: as for mmengine's ``ValLoop`` and ``TestLoop``.
        fp16: mmengine's name for ``precision='fp16'``.
        precision: ``'fp32'``, ``'bf16'``, ``'fp16'`` or ``'auto'``: in a test bf16 for models of 50 million parameters
            or more where the device multiplies in it, else fp32; in validation the type of the model's weights.
        skip_bad_images: score without the pictures that could not be read, and say how many; otherwise they are an
            error that names them at the end, after everything else was predicted. (The data set has to give their
            records instead of raising, see `blip2.datasets.set_skip_bad_images`.)
    """

    stage: str  # 'val' or 'test', as in the names of hooks and config fields
    resumable = True  # whether a batch's predictions stand by themselves, so that they can be kept and used again

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | list,
        fp16: bool = False,
        precision: str = "auto",
        skip_bad_images: bool = False,
    ) -> None:
        # Before the data: a metric that lacks something says so at once.
        self.evaluator = evaluator if isinstance(evaluator, Evaluator) else runner.build_evaluator(evaluator)
        # A picture that is drawn is drawn with each of its questions.
        drawing = any(isinstance(hook, VisualizationHook) and hook.enable for hook in runner.hooks)
        join = getattr(runner.bare_model, "answers_several", False) and not drawing
        super().__init__(runner, evaluation_loader(runner, dataloader, self.stage, join=join))
        metainfo = getattr(self.dataloader.dataset, "metainfo", None)
        self.evaluator.dataset_meta = metainfo
        runner.visualizer.dataset_meta = metainfo
        for metric in self.evaluator.metrics:
            if metric.collect_dir is None:
                metric.collect_device = (
                    "gpu"  # through the process group (of any kind), not a `.dist_test` in this folder
                )
        if fp16 and precision in ("auto", "fp32"):
            precision = "fp16"
        self.precision = self._default_precision() if precision == "auto" else precision_name(precision)
        self.skip_bad_images = skip_bad_images

    def _default_precision(self) -> str:
        return "fp32"

    def run(self) -> dict[str, Any]:
        """Returns the scores by name, the same in all processes."""
        self._hook("before", "")
        self._hook("before", "_epoch")
        self.runner.model.eval()
        if self.precision == "fp32":
            self.precision = precision_of(self.runner.model)  # it may train in half precision
        samples, bad = self.predict(self.dataloader)
        self._refuse_or_report(bad)
        metrics = self.evaluate(samples)
        if bad:
            metrics["left_out_images"] = len(bad)
        self._hook("after", "_epoch", metrics=metrics)
        self._hook("after", "")
        return metrics

    def predict(self, loader: DataLoader) -> tuple[dict[int, dict], dict[int, Any]]:
        """The predictions of all processes by index, and the records of unreadable pictures."""
        samples: dict[int, dict] = {}
        bad: dict[int, Any] = {}
        for number, batch in enumerate(loader):
            bad.update(batch.bad)
            if batch.data is not None:
                samples.update(self.run_iter(number, batch))
        for others_samples, others_bad in all_gather_object((samples, bad)):
            samples.update(others_samples)
            bad.update(others_bad)
        return samples, bad

    @torch.no_grad()
    def run_iter(self, number: int, batch: Batch) -> dict[int, dict]:
        """Predicts one batch; the fields and meta information of each data sample by its index."""
        self._hook("before", "_iter", batch_idx=number, data_batch=batch.data)
        # Sampled captions depend on the place in the data set, not on what this process did before.
        random_state.seed_all(random_state.derive(self.runner.seed, places(batch.indices[0])[0]))
        with autocast(self._device_type(), self.precision):
            outputs = list(getattr(self.runner.model, f"{self.stage}_step")(batch.data))
        if len(outputs) != len(batch.indices):
            raise ValueError(f"the model gave {len(outputs)} predictions for a batch of {len(batch.indices)} samples")
        samples: dict[int, dict] = {}
        for index, output in zip(batch.indices, outputs, strict=True):
            samples.update(self._fields(index, output))
        self._hook("after", "_iter", batch_idx=number, data_batch=batch.data, outputs=outputs)
        return samples

    def _fields(self, index: Index, output: Any) -> dict[int, dict]:
        """The fields and meta information of each sample that an output is about, by its place in the data set."""
        fields = as_dict(output)
        if not isinstance(index, tuple):
            return {index: fields}
        return dict(zip(index, self.dataloader.dataset.parted(fields), strict=True))  # type: ignore[attr-defined]

    def evaluate(self, samples: dict[int, dict]) -> dict[str, Any]:
        """The scores of `samples`, seen by the metrics in the order of their indices."""
        if is_main_process():
            ordered = [samples[index] for index in sorted(samples)]
            for start in range(0, len(ordered), CHUNK):
                self.evaluator.process(ordered[start : start + CHUNK])
        return self.evaluator.evaluate(len(samples))

    def _refuse_or_report(self, bad: dict[int, Any]) -> None:
        if not bad:
            return
        named = f"{len(bad)} picture(s) could not be read: " + "; ".join(str(bad[index]) for index in sorted(bad))
        if not self.skip_bad_images:
            again = "run again (the other predictions are kept)" if self.resumable else "run again"
            raise BadImagesError(f"{named}. Repair them and {again}, or score without them: --skip-bad-images")
        self.runner.logger.warning(f"left out of the scores: {named}")

    def _device_type(self) -> str:
        return next(self.runner.model.parameters()).device.type

    def _hook(self, when: str, what: str, **arguments: Any) -> None:
        self.runner.call_hook(f"{when}_{self.stage}{what}", **arguments)


@LOOPS.register_module()
class ValLoop(EvaluationLoop):
    """mmengine's ``ValLoop`` with the guarantees of `EvaluationLoop`."""

    stage = "val"


@LOOPS.register_module()
class TestLoop(EvaluationLoop):
    """mmengine's ``TestLoop`` with the guarantees of `EvaluationLoop`; predictions are kept as they are made.

    The weights themselves are cast to `precision`. Arguments: see `EvaluationLoop`.
    """

    stage = "test"
    __test__ = False  # no test class, whatever pytest thinks of the name

    log: PredictionLog | None = None  # set by the caller who wants predictions kept
    samples: dict[int, dict]  # all predictions by index, once the run is over

    def _default_precision(self) -> str:
        precision = default_precision(self.runner.bare_model, self._device_type())
        if precision != "fp32":
            self.runner.logger.info(
                f"this test computes in {precision}, which is fast here (--precision fp32: exactly)"
            )
        return precision

    def run(self) -> dict[str, Any]:
        """Predicts what the log does not hold yet, and scores everything."""
        cast_for_inference(self.runner.model, self.precision)
        metrics = super().run()
        if self.log is not None:
            self.log.finish(metrics)
        return metrics

    def predict(self, loader: DataLoader) -> tuple[dict[int, dict], dict[int, Any]]:
        done: dict[int, dict] = {}
        logged = self.log.done if self.log is not None and self.resumable else {}
        if logged:
            # Whole batches only: a sample's company could change its last digits.
            loader, reused = without_batches(loader, logged.__contains__)
            self.dataloader = loader
            done = {index: logged[index] for index in reused}
            total = len(loader.dataset)  # type: ignore[arg-type]
            self.runner.logger.info(f"{len(done)} of {total} predictions are there from an earlier run")
        samples, bad = super().predict(loader)
        self.samples = {**done, **samples}
        return self.samples, bad

    def run_iter(self, number: int, batch: Batch) -> dict[int, dict]:
        samples = super().run_iter(number, batch)
        if self.log is not None:
            self.log.write(samples)
        return samples


def as_dict(output: Any) -> dict:
    """A prediction's fields and meta information, off the GPU."""
    if isinstance(output, BaseDataElement):
        return output.cpu().to_dict()
    return dict(output)
