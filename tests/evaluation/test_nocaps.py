"""NoCaps: the server's file, and scores by domain against scoring each domain's pictures alone."""

import json

import pytest
from mmengine.evaluator import Evaluator

from blip2.evaluation import NocapsCaption, NocapsSave, caption_scores
from blip2.structures import DataSample
from blip2.utils.errors import AnnotationError

REFERENCES = {
    0: ["a baby stands", "one baby"],
    1: ["a yak on grass", "a brown yak"],
    2: ["two red circles"],
    3: ["a boat on the water", "one boat"],
}
DOMAINS = {0: "near-domain", 1: "out-domain", 2: "near-domain", 3: "near-domain"}
CAPTIONS = {0: "a baby", 1: "a cow on grass", 2: "two red squares", 3: "a boat"}
QUICK = ["Bleu", "CIDEr"]


def content(domains=DOMAINS):
    images = [
        {"id": key, "file_name": f"{key}.jpg", **({"domain": domains[key]} if domains else {})} for key in DOMAINS
    ]
    texts = [{"image_id": key, "id": 0, "caption": text} for key, texts in REFERENCES.items() for text in texts]
    return {"images": images, "annotations": texts}


@pytest.fixture
def ann_file(tmp_path):
    path = tmp_path / "nocaps_val_4500_captions.json"
    path.write_text(json.dumps(content()))
    return str(path)


def sample(image_id, caption):
    predicted = DataSample(metainfo={"image_id": image_id})
    predicted.pred_caption = caption
    return predicted


# ----- the server's file -----


def test_the_servers_file_has_each_picture_once(tmp_path, ann_file):
    folder = tmp_path / "new"
    evaluator = Evaluator([{"type": "blip2.NocapsSave", "save_dir": str(folder), "ann_file": ann_file}])
    evaluator.process([sample(key, text) for key, text in [*CAPTIONS.items(), (0, "again")]], None)
    assert evaluator.evaluate(5) == {}
    written = json.loads((folder / "nocap_pred.json").read_text(encoding="utf-8"))
    assert written == [{"image_id": key, "caption": text} for key, text in CAPTIONS.items()]
    assert [path.name for path in folder.iterdir()] == ["nocap_pred.json"]


def test_the_servers_file_needs_no_references(tmp_path):
    metric = NocapsSave(str(tmp_path), file_name="test.json")
    metric.process(None, [sample(7, ["the first", "the second"]).to_dict()])
    metric.evaluate(1)
    assert json.loads((tmp_path / "test.json").read_text()) == [{"image_id": 7, "caption": "the first"}]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 1, 3], r"1 picture\(s\) of .* have no caption and 0 captioned one\(s\) aren't in it, such as image_id 2"),
        ([0, 1, 2, 3, 9], r"0 picture\(s\) of .* and 1 captioned one\(s\) aren't in it, such as image_id 9"),
    ],
)
def test_gaps_are_named_and_the_old_file_stays(tmp_path, ann_file, ids, message):
    (tmp_path / "nocap_pred.json").write_text("old")
    metric = NocapsSave(str(tmp_path), ann_file=ann_file)
    metric.process(None, [sample(key, "a").to_dict() for key in ids])
    with pytest.raises(ValueError, match=message):
        metric.evaluate(len(ids))
    assert (tmp_path / "nocap_pred.json").read_text() == "old"


def test_a_file_of_another_kind_is_refused_before_inference(tmp_path):
    with pytest.raises(ValueError, match=r"file_name='captions\.txt' must name a file that ends in \.json"):
        NocapsSave(str(tmp_path), file_name="captions.txt")


# ----- scores by domain -----


def test_each_domain_is_scored_as_a_set_of_its_own(ann_file):
    evaluator = Evaluator([{"type": "blip2.NocapsCaption", "ann_file": ann_file, "metrics": QUICK}])
    evaluator.process([sample(key, text) for key, text in CAPTIONS.items()], None)
    scores = evaluator.evaluate(4)
    expected = caption_scores(REFERENCES, CAPTIONS, QUICK)
    for domain in ("near-domain", "out-domain"):
        own = {key: CAPTIONS[key] for key, name in DOMAINS.items() if name == domain}
        parts = caption_scores({key: REFERENCES[key] for key in own}, own, QUICK)
        expected |= {f"{domain}/{name}": score for name, score in parts.items()}
    assert scores == pytest.approx(expected)
    assert scores["near-domain/CIDEr"] != scores["CIDEr"]


@pytest.mark.parametrize(("domains", "found"), [(None, "None"), ({**DOMAINS, 2: "far-domain"}, "far-domain")])
def test_references_without_their_domains_are_refused(tmp_path, domains, found):
    path = tmp_path / "nocaps.json"
    path.write_text(json.dumps(content(domains)))
    with pytest.raises(AnnotationError, match=rf"doesn't name a domain out of .*\(found: {found}\)"):
        NocapsCaption(str(path), metrics=QUICK)
