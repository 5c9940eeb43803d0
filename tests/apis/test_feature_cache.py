"""Features kept on disk: what counts as the same content and the same model, and what a reader never sees."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from blip2.apis import get_model
from blip2.apis.inferencers.feature_cache import FeatureCache, FeatureCacheError, Rows, cache_path
from blip2.apis.inferencers.fingerprints import digest_of_file, digest_of_ids, digest_of_model
from blip2.apis.inferencers.gallery import features_of

DATA = Path(__file__).parents[1] / "data"
CONFIG = DATA / "toy_retriever_config.py"
ROWS = Rows(("a", "b"), {"feat": torch.tensor([[1.0, 2.0], [3.0, 4.0]])})


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path) -> None:
    monkeypatch.syspath_prepend(str(DATA))
    monkeypatch.setenv("BLIP2_HOME", str(tmp_path / "home"))


@pytest.fixture
def cache(tmp_path) -> FeatureCache:
    return FeatureCache(tmp_path / "folder" / "kept.safetensors", "model", ["feat"])


def test_what_was_written_is_read(cache) -> None:
    assert cache.read() is None and cache.digests() == frozenset()
    cache.write(ROWS)
    read = cache.read()
    assert read.digests == ROWS.digests and torch.equal(read.tensors["feat"], ROWS.tensors["feat"])
    assert cache.digests() == {"a", "b"}
    assert [path.name for path in cache.path.parent.iterdir()] == ["kept.safetensors"]


def test_file_of_another_model_or_without_the_wanted_features_counts_as_none(cache) -> None:
    cache.write(ROWS)
    assert FeatureCache(cache.path, "other", ["feat"]).read() is None
    assert FeatureCache(cache.path, "model", ["feat", "whole"]).read() is None


@pytest.mark.parametrize("share", [0.0, 0.6, 0.99])
def test_truncated_file_counts_as_none_and_is_replaced(cache, share: float) -> None:
    cache.path = cache_path(None, "kept")  # in the default folder, however little is left
    cache.write(ROWS)
    whole = cache.path.read_bytes()
    cache.path.write_bytes(whole[: int(share * len(whole))])
    assert cache.read() is None
    cache.write(ROWS)
    assert cache.read().digests == ROWS.digests


@pytest.mark.parametrize("content", [b"my thesis", b"\x08" + b"\0" * 7 + b"{}      ", os.urandom(100)])
def test_file_that_is_something_else_is_named_and_left_alone(cache, content: bytes) -> None:
    cache.path.parent.mkdir()
    cache.path.write_bytes(content)
    with pytest.raises(FeatureCacheError, match=r"kept\.safetensors holds no features .* not overwritten"):
        cache.read()
    assert cache.path.read_bytes() == content


def test_folder_in_the_place_of_the_file_is_named(cache) -> None:
    cache.path.mkdir(parents=True)
    with pytest.raises(FeatureCacheError, match="is a folder"):
        cache.read()


def test_unwritable_place_is_named_before_the_work(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    cache = FeatureCache(tmp_path / "file" / "x.safetensors", "model", ["feat"])
    with pytest.raises(FeatureCacheError, match=r"cannot be kept at .*prototype_cache"):
        cache.check_place()
    with pytest.raises(FeatureCacheError, match="cannot be kept"):
        features_of(["a"], lambda missing: pytest.fail("worked"), cache)


def test_place_is_the_default_folder_a_folder_or_a_file(tmp_path) -> None:
    assert cache_path(None, "x") == tmp_path / "home" / "prototypes" / "x.safetensors"
    assert cache_path(tmp_path, "x") == tmp_path / "x.safetensors"
    assert cache_path(tmp_path / "new", "x") == tmp_path / "new" / "x.safetensors"
    assert cache_path(tmp_path / "t2i.pth", "x") == tmp_path / "t2i.pth"


def compute_of(made: list[list[int]], digests: list[str]):
    def compute(missing: list[int]):
        made.append(missing)
        for index in missing:
            yield [digests[index]], {"feat": torch.full((1, 2), float(index))}

    return compute


def test_only_new_contents_are_computed_and_a_content_that_is_there_twice_once(cache) -> None:
    made: list[list[int]] = []
    digests = ["a", "b", "a", None]
    features_of(digests, compute_of(made, digests), cache)
    rows = features_of(["a", "c", "b"], compute_of(made, ["a", "c", "b"]), cache)
    assert made == [[0, 1], [1]]
    found = dict(zip(rows.digests, rows.tensors["feat"][:, 0].tolist(), strict=True))
    assert found == {"a": 0.0, "b": 1.0, "c": 1.0}
    assert features_of(["b", "a"], compute_of(made, []), cache).digests and len(made) == 2


def test_contents_that_are_gone_leave_the_file_with_the_next_change(cache) -> None:
    features_of(["a", "b"], compute_of([], ["a", "b"]), cache)
    features_of(["b", "c"], compute_of([], ["b", "c"]), cache)
    assert cache.digests() == {"b", "c"}


def test_interruption_keeps_what_was_done_and_the_next_run_goes_on_from_there(cache) -> None:
    made: list[list[int]] = []

    def interrupted(missing: list[int]):
        yield from list(compute_of([], ["a", "b", "c"])(missing))[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features_of(["a", "b", "c"], interrupted, cache)
    features_of(["a", "b", "c"], compute_of(made, ["a", "b", "c"]), cache)
    assert made == [[2]]


def test_interrupted_run_does_not_replace_a_fuller_file_of_another_process(cache) -> None:
    def overtaken(missing: list[int]):
        yield ["a"], {"feat": torch.zeros(1, 2)}
        cache.write(ROWS)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features_of(["a", "b"], overtaken, cache)
    assert cache.digests() == {"a", "b"}


def test_failed_write_leaves_the_old_file_and_the_features_at_hand(cache, monkeypatch) -> None:
    cache.write(ROWS)
    monkeypatch.setattr(os, "replace", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    rows = features_of(["a", "c"], compute_of([], ["a", "c"]), cache)
    assert set(rows.digests) == {"a", "c"}
    monkeypatch.undo()
    assert cache.digests() == {"a", "b"}
    assert [path.name for path in cache.path.parent.iterdir()] == ["kept.safetensors"], "no half-written rest"


def test_rests_of_killed_writers_are_removed_after_a_day_only(cache) -> None:
    cache.path.parent.mkdir()
    old, new = (cache.path.with_name(f".kept.safetensors.{name}.part") for name in ("1-a", "2-b"))
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (time.time() - 100_000,) * 2)
    cache.write(ROWS)
    assert not old.exists() and new.exists()


def write_often(path: Path, value: float, count: int) -> None:
    cache = FeatureCache(path, "model", ["feat"])
    for _ in range(count):
        cache.write(Rows(("a",), {"feat": torch.full((1, 4096), value)}))


def test_reader_beside_two_writers_always_sees_a_whole_file(cache) -> None:
    cache.write(Rows(("a",), {"feat": torch.ones(1, 4096)}))
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_often, args=(cache.path, value, 40)) for value in (1.0, 2.0)]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        rows = cache.read()
        assert rows is not None and len(rows.tensors["feat"].unique()) == 1
        seen.add(rows.tensors["feat"][0, 0].item())
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0] and seen <= {1.0, 2.0}


def test_writer_that_is_killed_leaves_the_old_file_whole(cache) -> None:
    cache.write(ROWS)
    code = f"""
import os, torch
from pathlib import Path
from blip2.apis.inferencers import feature_cache as module
module.os.fsync = lambda number: os.kill(os.getpid(), {int(signal.SIGKILL)})
cache = module.FeatureCache(Path({str(cache.path)!r}), "model", ["feat"])
cache.write(module.Rows(("c",), {{"feat": torch.zeros(1, 2)}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert cache.digests() == {"a", "b"}
    cache.write(Rows(("c",), {"feat": torch.zeros(1, 2)}))
    assert cache.digests() == {"c"}


# ----- digests -----


def test_digest_of_a_file_follows_its_content_not_its_name_size_or_time(tmp_path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"0123456789" * 300_000)
    second.write_bytes(b"0123456789" * 300_000)
    os.utime(second, (0, 0))
    assert digest_of_file(first) == digest_of_file(second)
    before = first.stat()
    with first.open("r+b") as file:
        file.seek(1_500_000)
        file.write(b"x")
    os.utime(first, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert first.stat().st_size == before.st_size and first.stat().st_mtime_ns == before.st_mtime_ns
    assert digest_of_file(first) != digest_of_file(second)


def test_digest_of_a_text_follows_its_tokens() -> None:
    assert len({digest_of_ids(ids) for ids in ([1, 23], [12, 3], [1, 2, 3], [3, 2, 1])}) == 4


class Weights(nn.Module):
    def __init__(self, **tensors: torch.Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)


@pytest.fixture
def config():
    return get_model(CONFIG)._config


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("size", [1, 996, 997, 2500])
def test_any_single_changed_weight_changes_the_models_digest(config, dtype: torch.dtype, size: int) -> None:
    values = torch.randint(0, 2, (size,)).to(dtype)
    before = digest_of_model(Weights(w=values.clone()), config, "fp32")
    for index in {0, size // 2, size - 1}:
        changed = values.clone()
        changed[index] = 1 - changed[index].to(torch.int64)
        assert digest_of_model(Weights(w=changed), config, "fp32") != before
    assert digest_of_model(Weights(w=values), config, "fp32") == before


def test_smallest_change_and_exchanged_weights_change_the_digest(config) -> None:
    values = torch.randn(3000)
    before = digest_of_model(Weights(w=values), config, "fp32")
    nudged = values.clone()
    nudged[1234] = torch.nextafter(nudged[1234], torch.tensor(torch.inf))
    swapped = values.clone()
    swapped[[5, 1700]] = values[[1700, 5]]
    flipped = values.flip(0)
    digests = [digest_of_model(Weights(w=w), config, "fp32") for w in (nudged, swapped, flipped)]
    assert len({before, *digests}) == 4


def test_names_shapes_config_and_precision_count(config) -> None:
    values = torch.randn(6)
    changed = get_model(CONFIG, max_txt_len=4)._config
    resized = get_model(CONFIG)._config
    resized.test_dataloader.dataset.pipeline[1]["scale"] = (4, 4)
    models = (Weights(w=values), Weights(v=values), Weights(w=values.view(2, 3)))
    digests = {digest_of_model(model, config, "fp32") for model in models}
    digests |= {digest_of_model(models[0], other, "fp32") for other in (changed, resized)}
    assert len(digests | {digest_of_model(models[0], config, "bf16")}) == 6


def test_weights_that_lie_nowhere_cannot_be_told_apart(config) -> None:
    with pytest.raises(ValueError, match="the weight w"):
        digest_of_model(Weights(w=torch.empty(3, device="meta")), config, "fp32")
