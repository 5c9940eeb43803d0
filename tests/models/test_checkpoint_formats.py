"""Models that come from and go to Hugging Face's and LAVIS's formats, against transformers with the same weights."""

import json

import pytest
import torch
import transformers
from model_files import as_config
from safetensors import safe_open
from torch.testing import assert_close

from blip2 import get_model
from blip2.apis.convert import convert_checkpoint
from blip2.checkpoints import CheckpointError, export, open_checkpoint, read_state_dict
from blip2.checkpoints.save import umask

IMAGE_TOKEN, QUERIES = 303, 6
CLOSE = dict(atol=1e-5, rtol=1e-5)


def pictures(size=28):
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def assert_captions_like(peer, ours):
    ids = torch.tensor([IMAGE_TOKEN] * QUERIES + [2, 50, 60]).expand(3, -1)
    expected = peer(pixel_values=pictures(), input_ids=ids).logits
    embeds = ours._inputs(ours.encode(pictures()), ids[:, QUERIES:])
    assert_close(ours.text_backbone(inputs_embeds=embeds), expected, **CLOSE)
    arguments = dict(num_beams=3, max_new_tokens=8, do_sample=False, eos_token_id=10, pad_token_id=1)
    theirs = peer.generate(pixel_values=pictures(), input_ids=ids, **arguments)[:, ids.shape[1] :].tolist()
    from blip2.models.language.generation import GenerationConfig, generate

    config = GenerationConfig(eos_token_id=10, pad_token_id=1, max_new_tokens=8, num_beams=3)
    found = generate(ours.text_backbone, embeds, None, config)
    rows = zip(theirs, found.sequences.tolist(), found.lengths.tolist(), strict=True)
    assert all(their[:length] == our[:length] for their, our, length in rows)


@torch.no_grad()
def assert_scores_like(peer, ours):
    ids = torch.tensor([[3, 7, 9, 4], [3, 11, 4, 0]])
    mask = (ids != 0).long()
    expected = peer(pixel_values=pictures()[:2], input_ids=ids, attention_mask=mask)
    images = ours.image_features(pictures()[:2])
    assert_close(images["image_feat"], expected.image_embeds, **CLOSE)
    text = ours._text_feat(ours.multimodal_backbone(input_ids=ids, attention_mask=mask))
    assert_close(ours.itc_scores(images["image_feat"], text), expected.logits_per_image, **CLOSE)
    matched = peer(pixel_values=pictures()[:2], input_ids=ids, attention_mask=mask, use_image_text_matching_head=True)
    assert_close(ours.itm_logits(images["image_embeds"], ids, mask), matched.logits_per_image, **CLOSE)


# ----- from Hugging Face -----


def test_a_hugging_face_folder_captions_as_in_transformers(captioner, caption_config, tmp_path):
    captioner.save_pretrained(tmp_path / "hf", max_shard_size="60KB")
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 1
    ours = get_model(as_config(caption_config(), tmp_path), pretrained=tmp_path / "hf")
    assert ours.ln_vision_backbone.eps == 1e-6  # Hugging Face's; the config says nothing, which means 1e-5
    assert_captions_like(captioner, ours)


def test_a_larger_vocabulary_than_the_configs_is_taken_over(captioner, caption_config, tmp_path):
    captioner.save_pretrained(tmp_path / "hf")
    fewer = {**caption_config()["text_backbone"], "vocab_size": 300}
    ours = get_model(as_config(caption_config(text_backbone=fewer), tmp_path), pretrained=tmp_path / "hf")
    assert ours.text_backbone.vocab_size == 304
    assert_captions_like(captioner, ours)


def test_a_retrieval_folder_scores_as_in_transformers(retriever, retrieval_config, tmp_path):
    retriever.save_pretrained(tmp_path / "hf")
    ours = get_model(as_config(retrieval_config(temperature=0.05), tmp_path), pretrained=tmp_path / "hf")
    assert_scores_like(retriever, ours)
    # What the format lacks starts afresh.
    assert ours.temp.item() == pytest.approx(0.05)
    head = ours.multimodal_backbone.cls.predictions
    assert head.decoder.weight is ours.multimodal_backbone.bert.embeddings.word_embeddings.weight
    assert 0.01 < head.transform.dense.weight.std() < 0.04


@pytest.mark.parametrize("to", ["blip2", "openmmlab", "lavis"])
def test_every_format_keeps_what_transformers_computes(to, captioner, caption_config, tmp_path):
    captioner.save_pretrained(tmp_path / "hf")
    config = as_config(caption_config(), tmp_path)
    path = tmp_path / ("x.safetensors" if to == "blip2" else "x.pth")
    done = convert_checkpoint(tmp_path / "hf", path, to)
    changes = {}
    if to == "openmmlab":  # it holds no language model: that comes from its own publisher's folder
        captioner.language_model.save_pretrained(tmp_path / "opt")
        assert any("language model" in loss for loss in done.lost)
        changes = {"text_backbone": {"name_or_path": str(tmp_path / "opt")}}
    ours = get_model(config, pretrained=path, **changes)
    assert ours.ln_vision_backbone.eps == 1e-6
    assert path.stat().st_size < 1.5 * (tmp_path / "hf/model.safetensors").stat().st_size  # nothing twice
    assert path.stat().st_mode & 0o444 == 0o444 & ~umask()
    assert_captions_like(captioner, ours)


def test_a_converted_retrieval_file_still_starts_afresh_what_it_lacks(retriever, retrieval_config, tmp_path):
    retriever.save_pretrained(tmp_path / "hf")
    done = convert_checkpoint(tmp_path / "hf", tmp_path / "x.safetensors", "blip2")
    assert any("temp" in loss for loss in done.lost)
    ours = get_model(as_config(retrieval_config(), tmp_path), pretrained=tmp_path / "x.safetensors")
    assert_scores_like(retriever, ours)


# ----- to Hugging Face -----


def loaded(kind, folder):
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return model.eval()


def test_an_exported_captioner_is_loaded_by_transformers_and_agrees(caption_model, caption_config, liven, tmp_path):
    ours = caption_model(layer_norm_eps=1e-6).eval()
    liven(ours, 5, lm=ours.text_backbone, eos=10)
    torch.save({"state_dict": ours.state_dict()}, tmp_path / "mine.pth")
    config = as_config(caption_config(layer_norm_eps=1e-6), tmp_path)
    convert_checkpoint(tmp_path / "mine.pth", tmp_path / "hf", "hf", config=config)
    peer = loaded(transformers.Blip2ForConditionalGeneration, tmp_path / "hf")
    assert peer.config.image_token_index == IMAGE_TOKEN
    assert_captions_like(peer, ours)


def test_a_head_of_its_own_comes_from_and_goes_to_transformers(captioner, caption_config, tmp_path):
    words = captioner.language_model.model.decoder.embed_tokens.weight
    head = torch.nn.Parameter(words.detach().flip(0).clone())
    captioner.language_model.lm_head.weight = head
    for config in (captioner.config, captioner.config.text_config, captioner.language_model.config):
        config.tie_word_embeddings = False
    captioner.save_pretrained(tmp_path / "hf")
    untied = {**caption_config()["text_backbone"], "tie_word_embeddings": False}
    config = as_config(caption_config(text_backbone=untied), tmp_path)
    ours = get_model(config, pretrained=tmp_path / "hf")
    assert ours.text_backbone.lm_head.weight is not ours.text_backbone.get_input_embeddings().weight
    assert_captions_like(captioner, ours)
    convert_checkpoint(tmp_path / "hf", tmp_path / "x.safetensors", "blip2", config=config)
    convert_checkpoint(tmp_path / "x.safetensors", tmp_path / "back", "hf", config=config)
    back = loaded(transformers.Blip2ForConditionalGeneration, tmp_path / "back")
    assert torch.equal(back.language_model.lm_head.weight, head)
    assert_captions_like(back, get_model(config, pretrained=tmp_path / "x.safetensors"))


def test_an_exported_retriever_is_loaded_by_transformers_and_agrees(retrieval_model, retrieval_config, liven, tmp_path):
    ours = retrieval_model(layer_norm_eps=1e-6).eval()
    liven(ours, 6)
    torch.save(ours.state_dict(), tmp_path / "mine.pth")
    done = convert_checkpoint(
        tmp_path / "mine.pth", tmp_path / "hf", "hf", config=as_config(retrieval_config(), tmp_path)
    )
    assert [loss.split(":")[0] for loss in done.lost] == [
        "ln_vision_backbone's epsilon of 1e-05 becomes 1e-06",
        "temp",
        "multimodal_backbone.cls.*",
    ]
    assert_scores_like(loaded(transformers.Blip2ForImageTextRetrieval, tmp_path / "hf"), ours)


def test_an_exported_t5_is_loaded_by_transformers_and_agrees(caption_config, tmp_path):
    sizes = dict(vocab_size=120, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    model = caption_config(text_backbone=dict(type="T5ForConditionalGeneration", **sizes), layer_norm_eps=1e-6)
    config = as_config(model, tmp_path)
    ours = get_model(config)
    torch.save(ours.state_dict(), tmp_path / "mine.pth")
    convert_checkpoint(tmp_path / "mine.pth", tmp_path / "hf", "hf", config=config)
    peer = loaded(transformers.Blip2ForConditionalGeneration, tmp_path / "hf")
    assert_t5_like(peer, ours)
    again = get_model(config, pretrained=tmp_path / "hf")
    assert_close(dict(again.state_dict()), dict(ours.state_dict()), atol=0, rtol=0)
    convert_checkpoint(tmp_path / "hf", tmp_path / "lavis.pth", "lavis")
    again = get_model(config, pretrained=tmp_path / "lavis.pth")
    assert_close(dict(again.state_dict()), dict(ours.state_dict()), atol=0, rtol=0)


@torch.no_grad()
def assert_t5_like(peer, ours):
    prompt, written = torch.tensor([[7, 8, 1]]).expand(3, -1), torch.tensor([[0, 5, 9]]).expand(3, -1)
    queries = torch.full((3, QUERIES), peer.config.image_token_index)
    expected = peer(
        pixel_values=pictures(), input_ids=torch.cat((queries, prompt), 1), decoder_input_ids=written
    ).logits
    encoded = ours.text_backbone.read(ours._inputs(ours.encode(pictures()), prompt))
    found = ours.text_backbone.lm_head(ours.text_backbone.run(written, encoded, None, None))
    assert expected.std() > 0.1
    assert_close(found, expected, **CLOSE)


# ----- there and back again -----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_round_trips_are_bit_identical(dtype, captioner, caption_config, tmp_path):
    captioner.to(dtype).save_pretrained(tmp_path / "hf")
    config = as_config(caption_config(), tmp_path)
    convert_checkpoint(tmp_path / "hf", tmp_path / "a.pth", "lavis")
    convert_checkpoint(tmp_path / "a.pth", tmp_path / "b.safetensors", "blip2")
    done = convert_checkpoint(tmp_path / "b.safetensors", tmp_path / "c", "hf", config=config)
    assert done.lost == ()
    first, last = (read_state_dict(tmp_path / name / "model.safetensors") for name in ("hf", "c"))
    assert first.keys() == last.keys() and {x.dtype for x in last.values()} == {dtype}
    assert_close(last, first, atol=0, rtol=0)
    theirs, ours = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("hf", "c"))
    for part in ("vision_config", "qformer_config", "text_config"):
        assert {k: v for k, v in theirs[part].items() if k in ours[part] and v != ours[part][k]} == {}


def test_the_sources_grid_is_kept_and_resized_on_request_alone(captioner, caption_config, tmp_path):
    captioner.save_pretrained(tmp_path / "hf")
    larger = {**caption_config()["vision_backbone"], "img_size": 42}
    config = as_config(caption_config(vision_backbone=larger), tmp_path)
    convert_checkpoint(tmp_path / "hf", tmp_path / "x.safetensors", "blip2")
    convert_checkpoint(tmp_path / "x.safetensors", tmp_path / "back", "hf", config=config)
    assert json.loads((tmp_path / "back/config.json").read_text())["vision_config"]["image_size"] == 28
    convert_checkpoint(tmp_path / "x.safetensors", tmp_path / "y.safetensors", "blip2", img_size=42)
    positions = "vision_backbone.pos_embed"
    assert read_state_dict(tmp_path / "x.safetensors")[positions].shape[1] == 5
    resized = read_state_dict(tmp_path / "y.safetensors")[positions]
    assert resized.shape[1] == 10
    # As the model itself does it when a file of another grid is loaded.
    assert_close(get_model(config, pretrained=tmp_path / "x.safetensors").vision_backbone.pos_embed.data, resized)
    with pytest.raises(CheckpointError, match="multiple of 14"):
        convert_checkpoint(tmp_path / "x.safetensors", tmp_path / "z.safetensors", "blip2", img_size=40)


# ----- bad input -----


def test_a_head_that_is_not_tied_is_refused(captioner, caption_config, tmp_path):
    state = {key: value.clone() for key, value in captioner.state_dict().items()}
    state["language_model.lm_head.weight"] += 1
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(
        CheckpointError, match=r"embed_tokens\.weight and .*lm_head\.weight differ.*tie_word_embeddings=False"
    ):
        get_model(as_config(caption_config(), tmp_path), pretrained=tmp_path / "x.pth")


def test_a_checkpoint_of_another_size_is_named_with_both_shapes(captioner, caption_config, tmp_path):
    captioner.save_pretrained(tmp_path / "hf")
    wider = dict(caption_config()["multimodal_backbone"], intermediate_size=96)
    config = as_config(caption_config(multimodal_backbone=wider), tmp_path)
    with pytest.raises(CheckpointError, match=r"wrong shape.*is 64x32 in the file, 96x32 in the model"):
        get_model(config, pretrained=tmp_path / "hf")
    with pytest.raises(CheckpointError, match="wrong shape"):
        convert_checkpoint(tmp_path / "hf", tmp_path / "out", "hf", config=config)
    assert not (tmp_path / "out").exists()


def test_a_partial_state_dict_names_what_it_lacks(captioner, caption_config, tmp_path):
    state = {k: v for k, v in captioner.state_dict().items() if "encoder.layers.1.mlp" not in k}
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"4 missing keys: vision_backbone\.layers\.1\.ffn"):
        get_model(as_config(caption_config(), tmp_path), pretrained=tmp_path / "x.pth")


@pytest.mark.parametrize("to", ["blip2", "openmmlab", "hf"])
def test_a_disk_that_fills_up_leaves_nothing(to, captioner, caption_config, tmp_path, monkeypatch):
    captioner.save_pretrained(tmp_path / "hf")
    config = as_config(caption_config(), tmp_path)
    out = tmp_path / "out"
    out.mkdir()

    def full(*args, **kwargs):
        path = args[1]
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "save_file", full)
    monkeypatch.setattr(export.torch, "save", full)
    target = out / {"blip2": "x.safetensors", "openmmlab": "x.pth", "hf": "x"}[to]
    with pytest.raises(CheckpointError, match=r"the disk is full\. Nothing was left"):
        convert_checkpoint(tmp_path / "hf", target, to, config=config)
    assert list(out.iterdir()) == []


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(captioner, tmp_path, monkeypatch):
    captioner.save_pretrained(tmp_path / "hf")
    monkeypatch.setattr(export.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(CheckpointError, match=r"needs 0\.0 GB, and 0\.0 GB are free"):
        convert_checkpoint(tmp_path / "hf", tmp_path / "x.safetensors", "blip2")
    assert not (tmp_path / "x.safetensors").exists()


def test_a_folder_that_holds_something_is_not_written_over(captioner, caption_config, tmp_path):
    captioner.save_pretrained(tmp_path / "hf")
    with pytest.raises(CheckpointError, match="exists already"):
        convert_checkpoint(tmp_path / "hf", tmp_path, "hf", config=as_config(caption_config(), tmp_path))


def test_exports_are_sharded_with_an_index(captioner, caption_config, tmp_path, monkeypatch):
    captioner.save_pretrained(tmp_path / "hf")
    monkeypatch.setattr(export.write_folder, "__defaults__", (60_000,))
    convert_checkpoint(tmp_path / "hf", tmp_path / "out", "hf", config=as_config(caption_config(), tmp_path))
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 1 and all(file.stat().st_size < 80_000 for file in files)
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())["weight_map"]
    for file in files:
        with safe_open(file, "pt") as opened:
            assert {key for key, name in index.items() if name == file.name} == set(opened.keys())
    loaded(transformers.Blip2ForConditionalGeneration, tmp_path / "out")
    files[0].unlink()
    with pytest.raises(FileNotFoundError, match=f"files that are not there: {files[0].name}"):
        open_checkpoint(tmp_path / "out")


# ----- devices and precision -----


def test_a_model_is_spread_over_memory_and_disk_and_writes_the_same(captioner, caption_config, tmp_path):
    captioner.save_pretrained(tmp_path / "hf")
    config = as_config(caption_config(), tmp_path)
    size = sum(parameter.nbytes for parameter in captioner.parameters())
    spread = get_model(
        config,
        pretrained=tmp_path / "hf",
        device_map="auto",
        max_memory={"cpu": size * 2 // 3},
        offload_folder=str(tmp_path / "offloaded"),
    )
    assert {"cpu", "disk"} <= set(spread.hf_device_map.values())
    assert any(parameter.is_meta for parameter in spread.parameters()) and list((tmp_path / "offloaded").glob("*.dat"))
    whole = get_model(config, pretrained=tmp_path / "hf")
    with torch.no_grad():
        assert_close(spread.encode(pictures()), whole.encode(pictures()), atol=0, rtol=0)
        ids = torch.tensor([[2, 50, 60]])
        assert_close(spread.text_backbone(ids), whole.text_backbone(ids), atol=0, rtol=0)


def test_a_part_that_goes_to_the_disk_needs_a_folder(captioner, caption_config, tmp_path):
    captioner.save_pretrained(tmp_path / "hf")
    config = as_config(caption_config(), tmp_path)
    with pytest.raises(ValueError, match="offload_folder='some/folder'"):
        get_model(config, pretrained=tmp_path / "hf", device_map="auto", max_memory={"cpu": 100_000})


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_precision_is_settled_while_loading(precision, dtype, captioner, caption_config, tmp_path):
    captioner.save_pretrained(tmp_path / "hf")
    config = as_config(caption_config(), tmp_path)
    ours = get_model(config, pretrained=tmp_path / "hf", precision=precision)
    whole = get_model(config, pretrained=tmp_path / "hf").state_dict()
    for key, value in ours.state_dict().items():
        norm = ".ln" in key or "ln_" in key or "norm" in key.lower()
        plain = key in ("query_tokens", "vision_backbone.cls_token", "vision_backbone.pos_embed")
        kept = norm or plain or "_bias" in key or not value.is_floating_point()
        assert value.dtype == (whole[key].dtype if kept else dtype), key
        assert_close(value, whole[key].to(value.dtype), atol=0, rtol=0)
    assert ours.text_backbone.lm_head.weight is ours.text_backbone.get_input_embeddings().weight


def test_the_runner_takes_a_folder_and_its_vocabulary(captioner, caption_config, tmp_path):
    from blip2.apis.runner import build_runner

    captioner.save_pretrained(tmp_path / "hf")
    fewer = {**caption_config()["text_backbone"], "vocab_size": 300}
    config = as_config(caption_config(text_backbone=fewer), tmp_path)
    runner = build_runner(config, work_dir=tmp_path / "work", device="cpu", checkpoint=tmp_path / "hf", test_only=True)
    runner.load_or_resume()
    assert_captions_like(captioner, runner.bare_model.eval())
    assert runner.bare_model.ln_vision_backbone.eps == 1e-6
