import pickle

import torch

from blip2.structures import DataSample


def test_a_sample_holds_any_python_value_and_tells_fields_from_meta_information():
    sample = DataSample(metainfo={"image_id": 7}, gt_caption=["a", "b"], pred_score=torch.ones(2), seen=None)
    assert sample.image_id == 7 and sample.gt_caption == ["a", "b"] and sample.seen is None
    assert set(sample.keys()) == {"gt_caption", "pred_score", "seen"}
    assert set(sample.metainfo_keys()) == {"image_id"}
    assert "image_id" in sample and "question" not in sample and sample.get("question") is None


def test_a_sample_goes_to_another_process_whole():
    sample = DataSample(metainfo={"img_path": "a.png"}, pred_caption="a star", pred_score=torch.arange(3.0))
    copy = pickle.loads(pickle.dumps(sample))
    assert copy.img_path == "a.png" and copy.pred_caption == "a star"
    assert copy.pred_score.tolist() == [0, 1, 2]


def test_moving_a_sample_moves_its_tensors_and_leaves_the_rest():
    sample = DataSample(pred_caption="a star", pred_score=torch.ones(2)).to(torch.float64)
    assert sample.pred_score.dtype is torch.float64 and sample.pred_caption == "a star"
