"""`FeatureExtractor` on bad input; what its features are, `test_inferencer_retrieval_model` asks a real model."""

from pathlib import Path

import numpy as np
import pytest
import torch

from blip2.apis import list_models
from blip2.apis.inferencers import BadInputsError, FeatureExtractor
from blip2.utils.errors import InputWarning

DATA = Path(__file__).parents[1] / "data"
RED = np.full((8, 8, 3), (0, 0, 255), np.uint8)
BLACK = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture
def extractor(monkeypatch) -> FeatureExtractor:
    monkeypatch.syspath_prepend(str(DATA))
    return FeatureExtractor(DATA / "toy_retriever_config.py", pretrained=False, device="cpu")


def test_unreadable_pictures_are_named_or_returned(extractor) -> None:
    with pytest.raises(BadInputsError, match=r"1 of 3 pictures") as caught:
        extractor([RED, b"junk", RED], batch_size=2)
    assert isinstance(caught.value.results[2], torch.Tensor)
    results = extractor([RED, b"junk"], on_error="return", texts=["red", "blue"])
    assert results[0].shape == (2, 3) and "error" in results[1]
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        extractor([RED, "gone.png"])
    with pytest.raises(ValueError, match="not a picture"):
        extractor(b"junk")


def test_features_that_are_nan_are_named(extractor) -> None:
    with pytest.warns(InputWarning, match="features of array 8×8×3 uint8 are NaN"):
        rows = extractor([RED, BLACK])
    assert rows[0].isfinite().all() and rows[1].isnan().all()
    with pytest.warns(InputWarning, match="features of 'nan' are NaN"):
        extractor(texts=["red", "nan"])


def test_texts_that_are_cut_are_counted(extractor) -> None:
    with pytest.warns(InputWarning, match="1 of 2 texts are longer than the 5 tokens"):
        extractor(texts=["red red red red", "red"])


def test_features_are_plain_float32_tensors_whatever_the_precision(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(DATA))
    extractor = FeatureExtractor(DATA / "toy_retriever_config.py", pretrained=False, device="cpu", precision="bf16")
    (rows,) = extractor(RED, stage="qformer")
    assert rows.dtype == torch.float32 and rows.device.type == "cpu" and not rows.is_inference()


def test_all_models_of_the_zoo_have_features() -> None:
    assert FeatureExtractor.list_models() == list_models()
