"""Validation and test of retrieval against ranking by plain loops; several processes; what is written and refused."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config

from blip2.apis.runner import build_runner
from blip2.cli import test as command
from blip2.datasets import set_skip_bad_images
from blip2.engine.errors import OptionError
from blip2.engine.gallery import gallery_of, gather_rows
from blip2.engine.loops import BadImagesError, RetrievalLoop
from blip2.engine.predictions import PredictionLog
from blip2.utils.errors import AnnotationError

TOYS = Path(__file__).parents[1] / "data"
TOPK = 3  # that of the toy model


@pytest.fixture
def gallery(tmp_path):
    """Makes toy configs; further arguments by dotted key."""

    def make(name="run", **changes):
        cfg = Config.fromfile(TOYS / "toy_retrieval_config.py", import_custom_modules=False)
        cfg.work_dir = str(tmp_path / name)
        cfg.merge_from_dict(changes)
        return cfg

    return make


def runner_of(cfg, log=None, **options):
    runner = build_runner(cfg, device="cpu", test_only=True, **options)
    if log is not None:
        runner.test_loop.log = PredictionLog(log, "f" * 64, {"config": "toy"})
    return runner


def twin(left_out=()):
    """Scores and rankings of the toy gallery without the pictures `left_out`, pair by pair."""
    from toy_retrieval import picture, text_vector

    numbers = [n for n in range(7) if n not in left_out]
    texts = [(n, 10 * n + i) for n in numbers for i in range(1 + n % 3)]
    similarity, second = {}, {}
    for n in numbers:
        vector = F.normalize(picture(n).flatten(), dim=0)
        for owner, text in texts:
            similarity[n, text] = float(vector @ text_vector(f"{owner}/{text}"))
            second[n, text] = float(picture(n).sum()) * (text % 5)

    def ranked(pairs):
        """Candidates of one query, best first: (candidate, score)."""
        best = sorted(pairs, key=lambda pair: -similarity[pair])[:TOPK]
        again = {pair: similarity[pair] + 0.1 * second[pair] for pair in best}
        others = [(pair, -100.0) for pair in pairs if pair not in again]
        return sorted(again.items(), key=lambda item: -item[1]) + others

    i2t = {n: [(text, score) for (_, text), score in ranked([(n, t) for _, t in texts])] for n in numbers}
    t2i = {t: [(n, score) for (n, _), score in ranked([(n, t) for n in numbers])] for _, t in texts}
    metrics = {}
    for name, rankings, right in (
        ("i2t", i2t, {n: {t for owner, t in texts if owner == n} for n in numbers}),
        ("t2i", t2i, {t: {owner} for owner, t in texts}),
    ):
        for k in (1, 2, 5):
            hits = [any(c in right[query] for c, _ in ranking[:k]) for query, ranking in rankings.items()]
            metrics[f"{name}/retrieval/Recall@{k}"] = 100 * sum(hits) / len(hits)
        metrics[f"{name}/retrieval/mean_recall"] = sum(metrics[f"{name}/retrieval/Recall@{k}"] for k in (1, 2, 5)) / 3
    for score in ("Recall@1", "Recall@2", "Recall@5", "mean_recall"):
        both = (metrics[f"{direction}/retrieval/{score}"] for direction in ("i2t", "t2i"))
        metrics[f"mean/retrieval/{score}"] = sum(both) / 2
    return metrics, i2t, t2i


def test_scores_and_predictions_are_those_of_ranking_pair_by_pair(gallery):
    runner = runner_of(gallery())
    metrics = runner.test()
    expected, i2t, t2i = twin()
    assert metrics == pytest.approx(expected)
    assert len(set(expected.values())) > 4 and 0 < expected["i2t/retrieval/Recall@1"] < 100  # the toy says something
    samples = runner.test_loop.samples
    assert list(samples) == list(range(7))
    for number, sample in samples.items():
        # Those that were not ranked again all have the same score, in any order.
        assert sample["pred_text_id"][:TOPK] == [text for text, _ in i2t[number][:TOPK]]
        assert sample["pred_text_score"] == pytest.approx([score for _, score in i2t[number][:10]])
        for text, ids, scores in zip(
            sample["gt_text_id"], sample["pred_image_id"], sample["pred_image_score"], strict=True
        ):
            assert ids[:TOPK] == [100 + n for n, _ in t2i[text][:TOPK]]
            assert scores == pytest.approx([score for _, score in t2i[text]])


TWO_PROCESSES = """
import json, sys
from pathlib import Path
import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from blip2.apis.runner import build_runner
from blip2.cli import test as command
for batch_size in (2, 3, 7):
    cfg = Config.fromfile(sys.argv[1], import_custom_modules=False)
    cfg.work_dir, cfg.test_dataloader.batch_size = "run", batch_size
    runner = build_runner(cfg, device="cpu", test_only=True, launcher="pytorch")
    metrics = runner.test()
    own = sum(len(batch) for batch in runner.test_loop.dataloader.batch_sampler)
    samples = [runner.test_loop.samples[n] for n in range(7)]
    found = {"metrics": metrics, "samples": samples, "own": own}
    Path(f"{batch_size}_{get_rank()}.json").write_text(json.dumps(found))
torch.distributed.destroy_process_group()  # left to the interpreter's end, its threads may abort the process
"""


def test_two_processes_with_uneven_shards_score_and_predict_as_one(gallery, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "PYTHONPATH": str(TOYS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, str(TOYS / "toy_retrieval_config.py")],
            cwd=tmp_path,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    for batch_size, shards in ((2, [4, 3]), (3, [4, 3]), (7, [7, 0])):
        one = runner_of(gallery(**{"test_dataloader.batch_size": batch_size}))
        expected = {"metrics": one.test(), "samples": [one.test_loop.samples[n] for n in range(7)]}
        for rank in range(2):
            found = json.loads((tmp_path / f"{batch_size}_{rank}.json").read_text())
            assert found.pop("own") == shards[rank]
            assert found == json.loads(json.dumps(expected))


def test_validation_while_training_scores_the_same_and_chooses_the_best_checkpoint(gallery):
    runner = build_runner(gallery(), device="cpu")
    assert isinstance(runner.val_loop, RetrievalLoop)
    runner.train()
    assert runner.val_loop.run() == pytest.approx(twin()[0])
    (best,) = Path(runner.work_dir).glob("best_*.pth")
    assert best.name == "best_mean_retrieval_Recall@1_epoch_1.pth"


def test_precision_of_the_command_line_reaches_the_loop(gallery):
    runner = runner_of(gallery(), precision="bf16")
    metrics = runner.test()
    assert runner.test_loop.precision == "bf16" and runner.model.scale.weight.dtype == torch.bfloat16
    assert metrics["t2i/retrieval/Recall@5"] == pytest.approx(twin()[0]["t2i/retrieval/Recall@5"], abs=15)


def test_without_ids_texts_belong_to_the_picture_they_come_with(gallery):
    without = {n: {"gt_text_id": None, "gt_image_id": None} for n in range(7)}
    runner = runner_of(gallery(**{"test_dataloader.dataset.changes": without}))
    assert runner.test() == pytest.approx(twin()[0])
    assert sorted(runner.test_loop.samples[6]["pred_text_id"]) != sorted(twin()[1][6])  # places, not the file's ids


# ----- pictures that cannot be used -----


def test_bad_pictures_are_named_before_anything_is_ranked(gallery, monkeypatch):
    runner = runner_of(gallery(**{"test_dataloader.dataset.bad": (1, 4)}))
    monkeypatch.setattr(type(runner.model), "predict_all", lambda *arguments: pytest.fail("ranked"))
    with pytest.raises(BadImagesError, match=r"2 picture\(s\).*1\.png.*4\.png: broken\. Repair them and run again, or"):
        runner.test()


def test_gallery_without_the_bad_pictures_keeps_the_ids_right(gallery):
    runner = runner_of(gallery(**{"test_dataloader.dataset.bad": (1, 4)}), skip_bad_images=True)
    metrics = runner.test()
    assert metrics.pop("left_out_images") == 2
    assert metrics == pytest.approx(twin(left_out=(1, 4))[0])
    found = {
        number for sample in runner.test_loop.samples.values() for ids in sample["pred_image_id"] for number in ids
    }
    assert found == {100, 102, 103, 105, 106}


def test_features_that_are_no_numbers_are_named_not_ranked(gallery, monkeypatch):
    changes = {"test_dataloader.dataset.not_finite": (3,), "model.bad": ("1/10", "5/52")}
    runner = runner_of(gallery(**changes))
    monkeypatch.setattr(type(runner.model), "predict_all", lambda *arguments: pytest.fail("ranked"))
    with pytest.raises(FloatingPointError, match=r"1 picture\(s\) and 2 text\(s\).*: 3\.png, '1/10', '5/52'\. Check"):
        runner.test()


def test_cut_texts_are_counted(gallery):
    runner = runner_of(gallery(**{"model.max_txt_len": 3}))
    runner.test()
    (log,) = Path(runner.log_dir).glob("*.log")
    assert "12 of 13 texts are longer than the 3 tokens" in log.read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({2: {"text": []}}, r"2\.png has no text.*test_mode=True"),
        ({2: {"gt_image_id": [102, 102, 999]}}, r"gt_image_id 999 of a text of 2\.png is the image_id of no picture"),
        ({2: {"gt_text_id": [20, 21]}}, r"2\.png has 3 text\(s\), but 2 gt_text_id: \[20, 21\]"),
        ({2: {"gt_text_id": [20, 21, 10]}}, "gt_text_id 10 comes twice"),
    ],
)
def test_annotations_that_do_not_fit_are_named(gallery, changes, message):
    with pytest.raises(AnnotationError, match=message):
        runner_of(gallery(**{"test_dataloader.dataset.changes": changes})).test()


def test_picture_ids_that_come_twice_are_refused():
    with pytest.raises(AnnotationError, match="image_id 7 comes twice"):
        gallery_of([{"image_id": 7, "text": "a"}, {"image_id": 7, "text": "b"}])


def test_text_of_another_picture_counts_for_that_one():
    found = gallery_of([{"image_id": 7, "text": "a", "gt_image_id": 8}, {"image_id": 8, "text": "b"}])
    assert found.pictures_of_text == [[1], [1]] and found.texts == ["a", "b"]


def test_model_that_cannot_rank_is_refused(toy):
    cfg = toy(**{"test_cfg.type": "RetrievalTestLoop"})
    with pytest.raises(OptionError, match=r"ToyNet does not have: use a Blip2Retrieval, or test_cfg=dict\(\)"):
        runner_of(cfg).test()


# ----- the log of predictions -----


def test_log_holds_the_best_candidates_once_all_is_ranked(gallery, tmp_path):
    runner = runner_of(gallery(), log=tmp_path / "log")
    metrics = runner.test()
    folder = tmp_path / "log" / ("f" * 16)
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    lines = [json.loads(line) for line in (folder / "rank0.jsonl").read_text().splitlines() if line]
    assert [line["index"] for line in lines] == list(range(7))
    assert lines[2]["sample"]["pred_text_id"] == runner.test_loop.samples[2]["pred_text_id"]


def test_interrupted_test_begins_anew_and_scores_the_same(gallery, tmp_path, monkeypatch):
    runner = runner_of(gallery(), log=tmp_path / "log")
    monkeypatch.setattr(runner.test_loop, "_score", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        runner.test()
    again = runner_of(gallery(), log=tmp_path / "log")
    assert again.test_loop.log.done == {}
    assert again.test() == pytest.approx(twin()[0])
    (tmp_path / "log" / ("f" * 16) / "metrics.json").unlink()  # interrupted between the last two steps
    last = runner_of(gallery(), log=tmp_path / "log")
    assert len(last.test_loop.log.done) == 7
    assert last.test() == pytest.approx(twin()[0])


def test_command_writes_scores_and_predictions_and_explains_mistakes(tmp_path, monkeypatch, capsys):
    from toy_retrieval import ToyRetrieval

    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": ToyRetrieval().state_dict()}, "weights.pth")
    line = [str(TOYS / "toy_retrieval_config.py"), "weights.pth", "--device", "cpu"]
    assert command.main([*line, "--out", "scores.json"]) == 0
    assert json.loads(Path("scores.json").read_text()) == pytest.approx(twin()[0])
    assert command.main([*line, "--out", "pred.json", "--out-item", "pred"]) == 0
    predictions = json.loads(Path("pred.json").read_text())
    assert [sample["pred_text_id"][0] for sample in predictions] == [i2t[0][0] for i2t in twin()[1].values()]
    assert command.main([*line, "--cfg-options", "model.bad=['1/10']"]) == 2
    assert "0 picture(s) and 1 text(s) are NaN or infinite and cannot be ranked: '1/10'" in capsys.readouterr().err


def test_skipping_can_be_set_on_a_built_data_set(gallery):
    runner = runner_of(gallery(**{"test_dataloader.dataset.bad": (0,)}))
    set_skip_bad_images(runner.test_loop.dataloader.dataset)
    runner.test_loop.skip_bad_images = True
    assert runner.test()["left_out_images"] == 1


def test_gathered_rows_lie_at_their_places():
    rows = torch.arange(12, dtype=torch.bfloat16).view(4, 3)
    gathered = gather_rows([([2, 0], rows[:2]), ([3, 1], rows[2:])], 4, "cpu")
    assert torch.equal(gathered, rows[[1, 3, 0, 2]]) and gathered.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="no process has anything"):
        gather_rows([], 0, "cpu")
