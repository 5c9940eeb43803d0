"""A peer that runs in another interpreter, which has it; this package need not be there."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from blip2.checkpoints.hf_config import cross_attention_frequency
from blip2.models.language.opt import OPTForCausalLM
from blip2.models.vision import BEiTViT

from .answers import Answers, Rankings, TokenIds
from .captioner import OwnCaptioner
from .contender import Steps
from .ranker import Ranker
from .transformers_peer import PeerUnavailableError

# Peer → the tasks that its adapter in blip2/benchmark/peers/ can do.
WORKERS = {"mmpretrain": ("caption", "retrieval"), "lavis": ("caption",)}
_SERVE = Path(__file__).with_name("peers") / "serve.py"
# mmpretrain reads the gallery in batches, as its data loader gives them.
_FEATURE_BATCH = 8
_LINES_OF_ERRORS = 12
_STATES = (("vision", "vision"), ("Q-Former", "qformer"), ("texts", "texts"))


class Worker:
    """A peer in a process of its own, which sleeps while it is not asked.

    It is given our weights and our decoded pictures through files in a temporary folder, and asked by lines of JSON. So
    its times hold no decoding of pictures; ours do, which can only be to its advantage.

    Args:
        name: one of `WORKERS`.
        python: the interpreter.
        ours: the contender whose weights and pictures it gets.

    Raises:
        PeerUnavailableError: it cannot be started, or built; the text has its own words.
    """

    def __init__(self, name: str, python: str, ours: OwnCaptioner | Ranker) -> None:
        task = ours.work.task
        self.name, self.ours, self.task = name, ours, task
        self.device = ours.device
        self._given: Sequence[Path] | None = None
        self._folder = TemporaryDirectory(prefix="blip2-peer-")
        self.folder = Path(self._folder.name)
        self._process: subprocess.Popen[str] | None = None
        try:
            job = _job(name, ours, self.folder)
            (self.folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
            weights = {key: value.detach().cpu().clone() for key, value in ours.base.state_dict().items()}
            save_file(weights, self.folder / "weights.safetensors")
            with (self.folder / "errors.txt").open("w") as errors:
                self._process = subprocess.Popen(
                    [python, str(_SERVE), str(self.folder)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    cwd=self.folder,
                )
            self.torch = self._reply()["torch"]
            (self.folder / "weights.safetensors").unlink()
        except OSError as error:
            self.close()
            raise PeerUnavailableError(f"cannot start {python}: {error}") from error
        except BaseException:
            self.close()
            raise

    def answer(self, files: Sequence[Path]) -> Answers:
        self._give(files)
        self._ask(do="answer")
        found = load_file(self.folder / "answers.safetensors")
        if self.task == "caption":
            return TokenIds(found["ids"].to(self.device))
        return Rankings(found["i2t"].to(self.device), found["t2i"].to(self.device))

    def steps(self, files: Sequence[Path]) -> Steps:
        self._give(files)
        return {"pipeline": lambda: self._ask(do="time")["seconds"]}

    def states(self, files: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
        self.answer(files)
        found = load_file(self.folder / "answers.safetensors")
        yield "picture decoding", load_file(self.folder / "pictures.safetensors")["pixels"].to(self.device)
        for stage, key in _STATES:
            if (state := found.get(f"state.{key}")) is not None:
                features = F.normalize(state, dim=-1) if self.task == "retrieval" and stage != "vision" else state
                yield stage, features.to(self.device)

    def cast(self, dtype: torch.dtype) -> None:
        self._ask(do="cast", dtype={torch.float32: "fp32", torch.float64: "fp64"}[dtype])

    def set_precision(self, precision: str) -> None:
        self._ask(do="set_precision", precision=precision)

    def cpu_seconds(self) -> float:
        """Processor time that the process has used since its start."""
        return self._ask(do="idle")["cpu"]

    def close(self) -> None:
        """Ends the process and removes its folder."""
        if self._process is not None:
            self._process.communicate()  # closes its input, at whose end it ends
            self._process = None
        self._folder.cleanup()

    def _give(self, files: Sequence[Path]) -> None:
        if self._given != files:
            pixels = self.ours.decode(files).float().cpu().contiguous()
            save_file({"pixels": pixels}, self.folder / "pictures.safetensors")
            self._ask(do="pictures")
            self._given = files

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: its last words are read below
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"ok": False, "error": self._last_words()}
        if not answer["ok"]:
            raise PeerUnavailableError(f"{self.name} failed with its own error: {answer['error']}")
        return answer

    def _last_words(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        lines = (self.folder / "errors.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join([f"it ended with exit code {code}", *lines[-_LINES_OF_ERRORS:]])


def _job(name: str, ours: OwnCaptioner | Ranker, folder: Path) -> dict[str, Any]:
    """All that the adapter must know, as plain values."""
    model = ours.model
    vision, queries, work = model.vision_backbone, model.multimodal_backbone, ours.work
    if not isinstance(vision, BEiTViT) or vision.img_size[0] != vision.img_size[1]:
        raise PeerUnavailableError(f"{name} has no such vision tower: wanted a square BEiTViT")
    block: Any = vision.layers[0]
    job = {
        "peer": name,
        "folder": str(folder),
        "task": work.task,
        "device": str(ours.device),
        "threads": torch.get_num_threads(),
        "vision": {
            "img_size": vision.img_size[0],
            "patch_size": vision.patch_embed.patch_size[0],
            "width": vision.embed_dims,
            "layers": vision.num_layers,
            "heads": block.attn.num_heads,
            "ffn": block.ffn.layers[1].in_features,
            "eps": block.ln1.eps,
        },
        "qformer": {
            "queries": queries.num_query_token,
            "width": queries.hidden_size,
            "layers": queries.config.num_hidden_layers,
            "heads": queries.config.num_attention_heads,
            "ffn": queries.config.intermediate_size,
            "positions": queries.config.max_position_embeddings,
            "vocab_size": queries.config.vocab_size,
            "eps": queries.config.layer_norm_eps,
            "cross_attention_freq": cross_attention_frequency(queries),
        },
        "neck_width": model.vision_neck.fc.out_features,
        "pad": model.tokenizer.pad_token_id,
    }
    return job | (_captions(name, ours) if isinstance(ours, OwnCaptioner) else _retrieval(ours))


def _captions(name: str, ours: OwnCaptioner) -> dict[str, Any]:
    language_model, tokenizer, prompt = ours.model.text_backbone, ours.model.tokenizer, ours.options.prompt.rstrip()
    if not isinstance(language_model, OPTForCausalLM):
        raise PeerUnavailableError(f"{name} has no such language model: wanted an OPTForCausalLM")
    config = language_model.config
    return {
        "opt": {
            "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "word_embed_proj_dim": config.hidden_size,
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "ffn_dim": config.ffn_dim,
            "max_position_embeddings": config.max_position_embeddings,
            "pad_token_id": config.pad_token_id,
        },
        "prompt": prompt,
        "table": {prompt: tokenizer.encode([prompt])[0], "\n": [tokenizer.token_id("\n")]},
        "num_beams": ours.work.num_beams,
        "max_new_tokens": ours.work.max_new_tokens,
    }


def _retrieval(ours: Ranker) -> dict[str, Any]:
    return {
        "texts": ours.captions,
        "table": dict(zip(ours.captions, ours.model.tokenizer.encode(ours.captions), strict=True)),
        "max_txt_len": ours.model.max_txt_len,
        "topk": ours.work.topk,
        "feature_batch": _FEATURE_BATCH,
    }
