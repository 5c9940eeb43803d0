"""Retrieval around a model that knows the colours of a picture's halves; `test_inferencer_retrieval_model` has a real
one.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset
from PIL import Image
from torch.utils.data import DataLoader

from blip2.apis import clear_cache, get_model, hub, inference_model, load_config
from blip2.apis.inferencers import (
    BadFeaturesError,
    BadInputsError,
    FeatureCacheError,
    GalleryError,
    ImageToTextRetrievalInferencer,
    TextToImageRetrievalInferencer,
    inferencer_for,
)
from blip2.structures import DataSample
from blip2.utils.errors import InputWarning, LeftOutWarning, MissingImageError

DATA = Path(__file__).parents[1] / "data"
CONFIG = DATA / "toy_retriever_config.py"
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "black": (0, 0, 0)}
TEXTS = ["red green", "green red", "blue blue"]


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path) -> None:
    monkeypatch.syspath_prepend(str(DATA))
    monkeypatch.setenv("BLIP2_HOME", str(tmp_path / "home"))


def picture(left: str, right: str) -> np.ndarray:
    """A picture with two colours, in OpenCV's order."""
    pixels = np.empty((8, 8, 3), np.uint8)
    pixels[:, :4], pixels[:, 4:] = COLOURS[left][::-1], COLOURS[right][::-1]
    return pixels


def save(path: Path, left: str, right: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(left, right)[:, :, ::-1]).save(path)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four pictures, in an order that only natural sorting gets right."""
    save(tmp_path / "pictures" / "p2.png", "red", "green")
    save(tmp_path / "pictures" / "p10.png", "green", "red")
    save(tmp_path / "pictures" / "p1.png", "blue", "blue")
    save(tmp_path / "pictures" / "deeper" / "p3.png", "red", "red")
    return tmp_path / "pictures"


def i2t(prototype, model=CONFIG, **options) -> ImageToTextRetrievalInferencer:
    return ImageToTextRetrievalInferencer(model, prototype, pretrained=False, device="cpu", **options)


def t2i(prototype, model=CONFIG, **options) -> TextToImageRetrievalInferencer:
    return TextToImageRetrievalInferencer(model, prototype, pretrained=False, device="cpu", **options)


# ----- results -----


def test_best_texts_come_first_under_mmpretrains_keys() -> None:
    (matches,) = i2t(["blue blue", "green red", "red"])(picture("red", "red"), topk=2)
    assert matches == [
        {"match_score": pytest.approx(1.0), "sample_idx": 2, "text": "red"},
        {"match_score": pytest.approx(0.5**0.5), "sample_idx": 1, "text": "green red"},
    ]


def test_best_pictures_come_first_under_mmpretrains_keys(folder) -> None:
    (matches,) = t2i(folder)("blue green", topk=2)
    half = pytest.approx(0.5**0.5)
    assert matches == [
        {"match_score": half, "sample_idx": 1, "sample": {"img_path": str(folder / "p1.png")}},
        {"match_score": half, "sample_idx": 2, "sample": {"img_path": str(folder / "p2.png")}},
    ], "of equals the first comes first"
    assert len(t2i(folder)("red")[0]) == 1


def test_matching_head_tells_apart_what_similarity_cannot(folder) -> None:
    near = t2i(folder, recursive=False)("green red", topk=2)[0]
    assert near[0]["match_score"] == near[1]["match_score"]
    sure = t2i(folder, recursive=False, fast_match=False)("green red", topk=2)[0]
    assert sure[0]["sample"]["img_path"].endswith("p10.png") and sure[0]["match_score"] > sure[1]["match_score"] + 1
    best = i2t(TEXTS, fast_match=False)([picture("green", "red"), picture("red", "green")])
    assert [matches[0]["text"] for matches in best] == ["green red", "red green"]


def test_matching_head_sees_only_as_many_as_the_models_topk(folder) -> None:
    model = get_model(CONFIG, topk=1)
    (matches,) = t2i(folder, model=model, recursive=False, fast_match=False)("green red", topk=3)
    looked_at, *others = (match["match_score"] for match in matches)
    assert looked_at > -20 and all(-101 <= score <= -99 for score in others)


def test_data_samples_hold_a_score_for_each_item(folder) -> None:
    (sample,) = i2t(TEXTS)(picture("blue", "blue"), return_datasamples=True)
    assert isinstance(sample, DataSample) and sample.pred_label.tolist() == [2]
    assert sample.pred_score.tolist() == pytest.approx([0, 0, 1])
    (sample,) = t2i(folder, recursive=False)("Blue!", return_datasamples=True)
    assert sample.text == "blue" and sample.pred_label.tolist() == [0] and len(sample.pred_score) == 3


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_results_do_not_depend_on_the_batch(folder, batch_size: int) -> None:
    queries = ["red green", "blue", "green", "green red", "red"]
    inferencer = t2i(folder, recursive=False, prepare_batch_size=batch_size, prototype_cache=False)
    assert inferencer(queries, batch_size=batch_size, topk=3) == [inferencer(query, topk=3)[0] for query in queries]
    pictures = [picture("red", "green"), picture("blue", "blue"), picture("red", "red")]
    texts = i2t(TEXTS)
    assert texts(pictures, batch_size=batch_size) == [texts(one)[0] for one in pictures]


def test_texts_are_cleaned_as_the_config_says_and_reported_as_given() -> None:
    (matches,) = i2t(["Blue, BLUE!", "red"])(picture("blue", "blue"))
    assert matches[0]["text"] == "Blue, BLUE!"


def test_both_scores_of_all_texts_come_in_their_order() -> None:
    with pytest.warns(LeftOutWarning):
        inferencer = i2t([*TEXTS, "nan"], on_bad_item="skip")
    first, second = inferencer.compare([picture("green", "red"), b"junk"], batch_size=2)
    assert first["itc"][:3] == pytest.approx([0.5**0.5, 0.5**0.5, 0.0]) and first["itc"][3] is None
    assert first["itm"][0] < 0.01 and first["itm"][1] > 0.99 and first["itm"][3] is None
    assert "not a picture" in second["error"]


def test_picture_is_searched_for_by_its_queries_features(folder) -> None:
    inferencer = t2i(folder, recursive=False)
    ((best, second, third),) = inferencer.search_by_image(picture("green", "red"), topk=3)
    assert best["sample"]["img_path"].endswith("p10.png") and best["match_score"] == pytest.approx(1)
    assert second["match_score"] == third["match_score"] == pytest.approx(0), "the order of the halves counts"


# ----- prototypes -----


def names(inferencer) -> list[str]:
    return [Path(name).name for name in inferencer.gallery.names]


def test_folder_is_searched_in_natural_order_with_or_without_subfolders(folder) -> None:
    assert names(t2i(folder, recursive=False)) == ["p1.png", "p2.png", "p10.png"]
    assert len(t2i(str(folder))("red")[0]) == 1 and len(names(t2i(folder))) == 4


def test_pictures_of_any_kind_are_searched(folder) -> None:
    prototype = [str(folder / "p1.png"), picture("red", "green"), Image.fromarray(picture("red", "red"))]
    inferencer = t2i(prototype)
    found = [matches[0]["sample_idx"] for matches in inferencer(["blue", "green"])]
    assert found == [0, 1]
    assert inferencer("green")[0][0]["sample"] == {"description": "array 8×8×3 uint8"}


def test_picture_at_an_address_is_fetched_once(folder, monkeypatch) -> None:
    fetched = []

    def fetch(url: str) -> bytes:
        fetched.append(url)
        if url.endswith("gone.png"):
            raise OSError(f"{url}: the server answered 404 Not Found")
        return (folder / url.rpartition("/")[2]).read_bytes()

    monkeypatch.setattr("blip2.apis.inferencers.text_to_image_retrieval.read_url", fetch)
    urls = [f"https://example.org/{name}.png" for name in ("p1", "p2", "gone")]
    with pytest.warns(LeftOutWarning, match=r"gone\.png.*404"):
        inferencer = t2i(urls, on_bad_item="skip")
    assert inferencer("blue")[0][0]["sample"] == {"img_path": urls[0]}
    assert sorted(fetched) == sorted(urls)


class TwoPictures(BaseDataset):
    def load_data_list(self) -> list[dict]:
        return [
            {"img_path": path, "text": texts, "image_id": 7 + n} for n, (path, texts) in enumerate(self.metainfo["of"])
        ]


@pytest.fixture
def dataset(folder) -> TwoPictures:
    of = ((str(folder / "p1.png"), ["blue blue", "blue"]), (str(folder / "p2.png"), "red green"))
    return TwoPictures(metainfo={"of": of}, pipeline=[])


def test_data_set_and_its_loader_are_searched(dataset) -> None:
    for prototype in (dataset, DataLoader(dataset, collate_fn=list)):
        ((match,),) = t2i(prototype)("red")
        assert match["sample_idx"] == 1 and match["sample"]["image_id"] == 8 and "sample_idx" not in match["sample"]
        assert i2t(prototype).gallery.names == ["blue blue", "blue", "red green"]


def test_config_of_a_data_set_is_searched(folder) -> None:
    config = {"type": "ImageTextDataset", "data_root": str(folder), "ann_file": "a.json"}
    (folder / "a.json").write_text('[{"image": "p1.png", "caption": "x"}, {"image": "p2.png", "caption": "y"}]')
    assert names(t2i(config)) == ["p1.png", "p2.png"]


def test_texts_of_a_file_are_its_lines_that_are_not_empty(tmp_path) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes("\ufeffred green\r\n\n  \nblue blue".encode())
    assert i2t(path).gallery.names == i2t(str(path)).gallery.names == ["red green", "blue blue"]


@pytest.mark.parametrize(
    ("prototype", "error", "said"),
    [
        ([], ValueError, "nothing to"),
        ("gone.txt", FileNotFoundError, r"'gone\.txt' is no file.*list of texts"),
        (["red", 3], TypeError, r"prototype\[1\] is a int"),
        (["red", " "], ValueError, r"prototype\[1\] is ' '"),
        (["red", "?!"], ValueError, r"prototype\[1\] is '\?!'"),
        (7, TypeError, "prototype is a int"),
    ],
)
def test_unusable_texts_are_named(prototype, error, said: str) -> None:
    with pytest.raises(error, match=said):
        i2t(prototype)


def test_file_without_text_or_of_another_encoding_is_named(tmp_path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("\n \n")
    with pytest.raises(ValueError, match=r"texts\.txt.*no text"):
        i2t(path)
    path.write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="UTF-8"):
        i2t(path)


def test_unusable_pictures_are_named(folder, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingImageError, match="no picture in the folder"):
        t2i(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"p1\.png' is no folder"):
        t2i(folder / "p1.png")
    with pytest.raises(ValueError, match="empty list"):
        t2i([])
    with pytest.raises(TypeError, match=r"images\[0\] is a int"):
        t2i([1])


def test_bad_pictures_of_the_folder_are_named_all_together_or_left_out(folder) -> None:
    (folder / "p3.png").write_bytes(b"junk")
    save(folder / "p4.png", "black", "red")
    with pytest.raises(GalleryError) as caught:
        t2i(folder, recursive=False)
    message = str(caught.value)
    assert (
        "2 of 5 items" in message and "p3.png): it is not a picture" in message and "p4.png): its features" in message
    )
    with pytest.warns(LeftOutWarning, match=r"2 of 5 items[^§]*p3\.png[^§]*left out"):
        inferencer = t2i(folder, recursive=False, on_bad_item="skip")
    assert set(inferencer.gallery.failures) == {2, 3}
    (sample,) = inferencer("red", return_datasamples=True)
    assert sample.pred_score.isinf().tolist() == [False, False, True, True, False]
    with pytest.warns(InputWarning, match="topk=9 is more than the 3"):
        (matches,) = inferencer("red", topk=9)
    assert [match["sample_idx"] for match in matches] == [1, 4, 0]


def test_nothing_but_bad_items_is_an_error_whatever_was_asked(folder) -> None:
    with pytest.raises(GalleryError, match="nothing else to search in"):
        i2t(["nan", "nan"], on_bad_item="skip")
    with pytest.raises(ValueError, match="on_bad_item='ignore'"):
        i2t(TEXTS, on_bad_item="ignore")


# ----- bad queries -----


def test_topk_beyond_the_gallery_gives_all_and_says_so_once(recwarn) -> None:
    inferencer = i2t(TEXTS)
    for _ in range(3):
        assert len(inferencer([picture("red", "red")] * 2, topk=4)[1]) == 3
    assert [str(one.message) for one in recwarn if one.category is InputWarning] == [
        "topk=4 is more than the 3 items that there are to rank: all are given"
    ]


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "2"])
def test_wrong_numbers_are_refused(folder, number) -> None:
    for inferencer, query in ((i2t(TEXTS), picture("red", "red")), (t2i(folder), "red")):
        for name in ("topk", "batch_size"):
            with pytest.raises(ValueError, match=f"{name}="):
                inferencer(query, **{name: number})
    with pytest.raises(ValueError, match="prepare_batch_size="):
        t2i(folder, prepare_batch_size=number)


def test_texts_longer_than_the_model_takes_are_cut_counted_and_told_also_when_their_features_are_kept(folder) -> None:
    long = "red red red blue blue"
    for _ in range(2):
        with pytest.warns(InputWarning, match=r"1 of 2 texts are longer than the 5 tokens .*max_txt_len"):
            inferencer = i2t([long, "red"])
    assert inferencer.gallery.num_cut == 1 and inferencer(picture("red", "red"))[0][0]["match_score"] == 1
    with pytest.warns(InputWarning, match="1 of 1 texts"):
        t2i(folder)(long)


def test_query_whose_features_are_nan_is_named(folder) -> None:
    dark = save(folder.parent / "dark.png", "black", "red")
    with pytest.raises(BadFeaturesError, match=r"dark\.png.*precision='fp32'"):
        i2t(TEXTS)([picture("red", "red"), dark], batch_size=2)
    with pytest.raises(BadFeaturesError, match="'nan'"):
        t2i(folder)(["red", "nan"])


@pytest.mark.parametrize(("query", "error"), [("", ValueError), ([], ValueError), (["red", 3], TypeError)])
def test_query_that_is_no_text_is_refused(folder, query, error) -> None:
    with pytest.raises(error, match="inputs"):
        t2i(folder)(query)


def test_unreadable_query_pictures_are_treated_as_by_other_inferencers(tmp_path) -> None:
    inferencer = i2t(TEXTS)
    with pytest.raises(BadInputsError, match=r"1 of 2 pictures"):
        inferencer([picture("red", "red"), b"junk"])
    results = inferencer([picture("blue", "blue"), b"junk"], on_error="return", batch_size=2)
    assert results[0][0]["text"] == "blue blue" and "error" in results[1]


def test_unknown_argument_is_named_with_the_nearest(folder) -> None:
    for inferencer, query in ((i2t(TEXTS), picture("red", "red")), (t2i(folder), "red")):
        with pytest.raises(TypeError, match=r"'top_k'\. Did you mean 'topk'"):
            inferencer(query, top_k=3)


def test_model_that_cannot_compare_is_refused() -> None:
    with pytest.raises(TypeError, match="ToyCaptioner cannot compare"):
        i2t(TEXTS, model=DATA / "toy_captioner_config.py")


# ----- features kept on disk -----


def kept(tmp_path) -> list[Path]:
    return sorted((tmp_path / "home" / "prototypes").glob("*"))


def test_second_inferencer_encodes_nothing_again(folder, tmp_path) -> None:
    first = t2i(folder)
    again = t2i(folder)
    assert sum(first.model.pictures_seen) == 4 and again.model.pictures_seen == []
    assert again(["red", "blue"], topk=4) == first(["red", "blue"], topk=4)
    texts = i2t(TEXTS), i2t(TEXTS)
    assert [one.model.texts_seen for one in texts] == [[3], []]
    assert len(kept(tmp_path)) == 2


def test_only_pictures_whose_content_changed_are_encoded_again(folder, tmp_path) -> None:
    t2i(folder)
    save(folder / "p2.png", "green", "green")
    save(folder / "p11.png", "red", "blue")
    shutil.move(folder / "p1.png", folder / "p0.png")
    again = t2i(folder)
    assert sum(again.model.pictures_seen) == 2
    ((best, *_),) = again.search_by_image(picture("green", "green"), topk=2)
    assert best["sample"]["img_path"].endswith("p2.png") and best["match_score"] == 1
    assert len(kept(tmp_path)) == 1, "the folder's file is replaced"


def test_other_weights_config_or_precision_encode_again(folder) -> None:
    t2i(folder)
    model = get_model(CONFIG)
    with torch.no_grad():
        model.scale.weight[0, 0] += 1e-3
    assert sum(t2i(folder, model=model).model.pictures_seen) == 4
    assert sum(t2i(folder, model=get_model(CONFIG, max_txt_len=4)).model.pictures_seen) == 4
    assert sum(t2i(folder, precision="bf16").model.pictures_seen) == 4
    assert t2i(folder, model=model).model.pictures_seen == [4], "the instance's own from before"


def test_features_of_whole_pictures_are_kept_apart_from_those_for_fast_matching(folder, tmp_path) -> None:
    t2i(folder)
    assert sum(t2i(folder, fast_match=False).model.pictures_seen) == 4
    again = t2i(folder, fast_match=False)
    assert again.model.pictures_seen == [] and again("green red")[0][0]["sample"]["img_path"].endswith("p10.png")
    assert len(kept(tmp_path)) == 2


def test_place_of_the_features_can_be_named_or_refused(folder, tmp_path) -> None:
    t2i(folder, prototype_cache=tmp_path / "t2i.pth")
    assert (tmp_path / "t2i.pth").is_file() and not kept(tmp_path)
    assert t2i(folder, prototype_cache=tmp_path / "t2i.pth").model.pictures_seen == []
    t2i(folder, prototype_cache=False)
    assert not kept(tmp_path)
    saved = t2i(folder, prototype_cache=False)
    saved.save_prototype(tmp_path / "saved.safetensors")
    assert t2i(folder, prototype_cache=tmp_path / "saved.safetensors").model.pictures_seen == []


def test_mmpretrains_pickle_in_the_place_is_not_overwritten(folder, tmp_path) -> None:
    torch.save({"image_feat": torch.zeros(3)}, tmp_path / "t2i.pth")
    content = (tmp_path / "t2i.pth").read_bytes()
    with pytest.raises(FeatureCacheError, match=r"t2i\.pth holds no features of this package"):
        t2i(folder, prototype_cache=tmp_path / "t2i.pth")
    assert (tmp_path / "t2i.pth").read_bytes() == content


def test_default_place_that_cannot_be_written_is_no_reason_to_stop(folder, tmp_path) -> None:
    (tmp_path / "home").write_text("a file in the way")
    with pytest.warns(InputWarning, match="cannot be kept"):
        inferencer = t2i(folder)
    assert inferencer("blue")[0][0]["sample"]["img_path"].endswith("p1.png")
    with pytest.raises(FeatureCacheError, match="cannot be kept"):
        t2i(folder, prototype_cache=tmp_path / "home" / "x.safetensors")


def test_bad_items_are_tried_again_not_kept(folder) -> None:
    for _ in range(2):
        with pytest.raises(GalleryError, match="its features are NaN"):
            i2t(["red", "nan"])
    (folder / "p3.png").write_bytes(b"junk")
    with pytest.raises(GalleryError):
        t2i(folder)
    save(folder / "p3.png", "green", "green")
    again = t2i(folder)
    assert again.model.pictures_seen == [1] and len(again("green", topk=5)[0]) == 5


def test_progress_is_told_in_batches(folder) -> None:
    seen = []
    t2i(folder, prepare_batch_size=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 4), (4, 4)]


# ----- drawing and choosing -----


def test_show_dir_gets_the_picture_with_its_texts(folder, tmp_path) -> None:
    inferencer = i2t(TEXTS)
    inferencer([folder / "p1.png", folder / "p2.png"], topk=2, show_dir=tmp_path / "one")
    inferencer(folder / "p1.png", topk=3, show_dir=tmp_path / "more", draw_score=False)
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["p1.png", "p2.png"]
    assert Image.open(tmp_path / "more" / "p1.png").height > Image.open(tmp_path / "one" / "p1.png").height


def test_show_dir_gets_the_text_with_its_pictures(folder, tmp_path) -> None:
    inferencer = t2i(folder)
    inferencer(["blue", "red"], topk=2, show_dir=tmp_path / "drawn", resize=50)
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["query_0000.png", "query_0001.png"]
    pixels = np.asarray(Image.open(tmp_path / "drawn" / "query_0000.png")).reshape(-1, 3)
    assert {(0, 0, 255), (255, 255, 255)} <= set(map(tuple, pixels.tolist()))
    inferencer.search_by_image(picture("red", "red"), topk=2, show_dir=tmp_path / "like")
    assert (tmp_path / "like" / "query_0000.png").is_file()


def test_inferencer_is_found_by_task_and_by_what_is_asked(folder) -> None:
    model = type("Blip2Retrieval", (torch.nn.Module,), {})()
    assert inferencer_for("Image-To-Text Retrieval") is ImageToTextRetrievalInferencer
    assert inferencer_for("Text-To-Image Retrieval") is TextToImageRetrievalInferencer
    for query in (picture("red", "red"), folder / "p1.png", str(folder), "https://example.org/a.png", [b"", b""]):
        assert inferencer_for(model, query) is ImageToTextRetrievalInferencer
    for query in ("a red square", ["a red square"], "x" * 5000):
        assert inferencer_for(model, query) is TextToImageRetrievalInferencer


@pytest.fixture
def as_retriever(monkeypatch) -> None:
    from blip2.apis import inferencers

    tasks = ("Image-To-Text Retrieval", "Text-To-Image Retrieval")
    monkeypatch.setitem(inferencers._TASKS_OF_MODEL, "ToyRetriever", tasks)


def test_inference_model_picks_the_direction(folder, as_retriever) -> None:
    texts = inference_model(CONFIG, str(folder / "p1.png"), prototype=TEXTS, pretrained=False, topk=1)
    assert texts[0]["text"] == "blue blue"
    pictures = inference_model(CONFIG, "blue", prototype=str(folder), pretrained=False, topk=1)
    assert pictures[0]["sample"]["img_path"] == str(folder / "p1.png")
    with pytest.raises(TypeError, match="TextToImageRetrievalInferencer needs prototype="):
        inference_model(CONFIG, "blue", pretrained=False)
    several = inference_model(CONFIG, ["blue", "red"], prototype=str(folder), pretrained=False)
    assert len(several) == 2


def test_kept_inferencer_sees_pictures_that_were_added_since(folder, as_retriever, monkeypatch) -> None:
    entry = type("Entry", (), {"tasks": ("Text-To-Image Retrieval",), "config": CONFIG, "weights": None})
    for module in ("blip2.apis.hub", "blip2.apis.inferencers", "blip2.apis.config"):
        monkeypatch.setattr(f"{module}.model_entries", lambda: {"toy": entry}, raising=False)
    made = []
    monkeypatch.setattr(hub, "load_config", lambda name: made.append(name) or load_config(CONFIG))
    clear_cache()
    assert len(inference_model("toy", "green", prototype=str(folder), pretrained=False, topk=4)) == 4
    save(folder / "p0.png", "green", "green")
    assert len(inference_model("toy", "green", prototype=str(folder), pretrained=False, topk=5)) == 5
    assert len(made) == 1, "one model for both"
    clear_cache()
