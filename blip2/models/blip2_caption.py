"""`Blip2Caption`: the queries' findings, projected, are read by a frozen language model that goes on in words."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blip2.registry import MODELS
from blip2.structures import DataSample

from .blip2_base import Blip2Base, build_part, dtype_of
from .checks import check_choice, check_keys
from .freeze import freeze
from .language.generation import GenerationConfig, GenerationOutput, generate
from .language.packing import pack_texts


@dataclass(frozen=True)
class CaptionOptions:
    """What a call of `Blip2Caption.predict` may change; see `Blip2Caption` for the meaning."""

    prompt: str
    max_txt_len: int
    num_captions: int
    num_beams: int
    min_length: int
    length_penalty: float
    repetition_penalty: float
    do_sample: bool
    top_p: float
    top_k: int
    temperature: float
    seed: int | None

    def __post_init__(self) -> None:
        for name in ("max_txt_len", "num_captions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not self.do_sample and self.num_captions > self.num_beams:
            raise ValueError(
                f"num_captions={self.num_captions} is more than num_beams={self.num_beams}: raise num_beams, or set "
                "do_sample=True"
            )
        self.generation(eos_token_id=0, pad_token_id=0)  # the other values are checked there: now, not at the first use

    def generation(self, eos_token_id: int, pad_token_id: int) -> GenerationConfig:
        return GenerationConfig(
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
            max_new_tokens=self.max_txt_len,
            min_length=self.min_length,
            num_beams=1 if self.do_sample else self.num_beams,
            num_return_sequences=self.num_captions,
            length_penalty=self.length_penalty,
            repetition_penalty=self.repetition_penalty,
            do_sample=self.do_sample,
            top_p=self.top_p,
            top_k=self.top_k,
            temperature=self.temperature,
            seed=self.seed,
        )


@MODELS.register_module()
class Blip2Caption(Blip2Base):
    """BLIP-2 for image captions (arXiv 2301.12597).

    The language model is always frozen; the image encoder as its own config says (``frozen_stages``); layer norm,
    queries, Q-Former and projection are trained. A caption ends with a line feed, which must be one token of the
    tokenizer.

    Args:
        vision_backbone, multimodal_backbone, layer_norm_eps, data_preprocessor, init_cfg: see `Blip2Base`.
        text_backbone: config or module of the language model.
        vision_neck: config or module of the projection into the language model's width.
        tokenizer: config or tokenizer of the language model; needed by `loss` and `predict`, read at first use.
        prompt: what the captions continue; spaces at its end are dropped.
        max_txt_len: longest caption in tokens, the line feed included and the prompt not. Training cuts longer captions
            there.
        num_captions: captions per picture; above 1, predictions are lists, the best first (samples: as drawn).
        num_beams: width of the beam search; 1 is greedy search. Ignored when `do_sample` is on.
        min_length: least number of tokens before the line feed.
        length_penalty: beams are ranked by log-probability divided by length to this power.
        repetition_penalty: above 1, words already written become less likely.
        do_sample: nucleus sampling with `top_p`, `top_k` (0: all tokens), `temperature` and `seed` instead of a search.
        captions_per_picture: of a picture with a list of captions, `loss` takes this many at once, or 'all'. They are
            drawn at random in training mode and are the first ones in eval mode. The picture is encoded once for all of
            them.
    """

    def __init__(
        self,
        vision_backbone: Mapping[str, Any] | nn.Module,
        text_backbone: Mapping[str, Any] | nn.Module,
        multimodal_backbone: Mapping[str, Any] | nn.Module,
        vision_neck: Mapping[str, Any] | nn.Module,
        tokenizer: Any = None,
        prompt: str = "",
        max_txt_len: int = 20,
        num_captions: int = 1,
        num_beams: int = 5,
        min_length: int = 1,
        length_penalty: float = 1.0,
        repetition_penalty: float = 1.0,
        do_sample: bool = False,
        top_p: float = 0.9,
        top_k: int = 0,
        temperature: float = 1.0,
        seed: int | None = None,
        captions_per_picture: int | Literal["all"] = 1,
        layer_norm_eps: float = 1e-5,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: Any = None,
    ) -> None:
        # Captions come from the language model: the Q-Former reads no text.
        multimodal_backbone = build_part(multimodal_backbone, with_text=False, with_lm_head=False)
        super().__init__(vision_backbone, multimodal_backbone, tokenizer, layer_norm_eps, data_preprocessor, init_cfg)
        self.vision_neck = build_part(vision_neck)
        self.text_backbone = build_part(text_backbone)
        freeze(self.text_backbone)
        if captions_per_picture != "all" and captions_per_picture < 1:
            raise ValueError(f"captions_per_picture={captions_per_picture} must be at least 1, or 'all'")
        self.captions_per_picture = captions_per_picture
        self.options = CaptionOptions(
            prompt=prompt,
            max_txt_len=max_txt_len,
            num_captions=num_captions,
            num_beams=num_beams,
            min_length=min_length,
            length_penalty=length_penalty,
            repetition_penalty=repetition_penalty,
            do_sample=do_sample,
            top_p=top_p,
            top_k=top_k,
            temperature=temperature,
            seed=seed,
        )

    def forward(
        self, images: Tensor, data_samples: Sequence[DataSample] | None = None, mode: str = "tensor", **overrides: Any
    ) -> Any:
        """`mode` is 'tensor' (`encode`), 'loss' or 'predict'; `overrides` are for 'predict'."""
        check_choice("mode", mode, ("tensor", "loss", "predict"))
        if mode == "predict":
            return self.predict(images, data_samples, **overrides)
        if overrides:
            raise TypeError(f"{', '.join(overrides)} can be given with mode='predict' only, not with mode={mode!r}")
        return self.encode(images) if mode == "tensor" else self.loss(images, data_samples)

    def encode(self, images: Tensor) -> Tensor:
        """Pictures B×3×H×W to B×Q×D, what the language model is given to read."""
        return self.vision_neck(self.query_image(self.encode_image(images)))

    def loss(self, images: Tensor, data_samples: Sequence[DataSample] | None) -> dict[str, Tensor]:
        """Mean negative log-likelihood, in nats a token, of the captions and their line feeds after ``prompt + ' '``.

        Captions are the samples' ``gt_caption``: a string, or a list of strings (see `captions_per_picture`).
        """
        captions = [self._captions(sample) for sample in data_samples or ()]
        if len(captions) != len(images):
            raise ValueError(f"{len(images)} pictures came with {len(captions)} data samples")
        texts = pack_texts([self._tokenized(row) for row in captions], self._pad_token_id(), images.device)
        queries = self.encode(images)  # B×Q×D
        num_queries = queries.shape[1]
        self.text_backbone.check_length(num_queries + texts.longest)
        mask, positions = texts.attention(num_queries)
        hidden = self.text_backbone.hidden_states(self._inputs(queries, texts.ids), mask, positions)
        rows, places, targets = texts.predictors(num_queries)
        logits = self.text_backbone.lm_head(hidden[rows, places])  # only where there is something to learn
        return {"loss": F.cross_entropy(logits.float(), targets)}

    @torch.no_grad()
    def predict(
        self, images: Tensor, data_samples: Sequence[DataSample] | None = None, **overrides: Any
    ) -> list[DataSample]:
        """Write captions into the data samples (new ones if there are none), which are returned.

        ``pred_caption`` is the text without prompt and line feed; ``pred_score`` its log-probability under the language
        model divided by its length in tokens, line feed included, before any penalty or temperature. Both are lists,
        the best first, if `num_captions` is above 1.

        Args:
            overrides: any field of `CaptionOptions` (see the class for their meaning), for this call only.
        """
        options = self._options(overrides)
        samples = [DataSample() for _ in images] if data_samples is None else list(data_samples)
        if len(samples) != len(images):
            raise ValueError(f"{len(images)} pictures came with {len(samples)} data samples")
        output = self.generate(images, options)
        texts = [text.strip() for text in self.tokenizer.decode(_without_end(output))]
        scores = output.scores.tolist()
        num = options.num_captions
        for index, sample in enumerate(samples):
            row = slice(index * num, (index + 1) * num)
            sample.pred_caption = texts[row] if num > 1 else texts[index]
            sample.pred_score = scores[row] if num > 1 else scores[index]
        return samples

    def generate(self, images: Tensor, options: CaptionOptions) -> GenerationOutput:
        """Token ids and scores of the captions of B×3×H×W pictures."""
        (prompt,) = self._encode_texts([options.prompt.rstrip()])
        queries = self.encode(images)  # B×Q×D
        ids = torch.tensor(prompt, device=images.device, dtype=torch.long).expand(len(images), -1)
        config = options.generation(self.tokenizer.token_id("\n"), self._pad_token_id())
        return generate(self.text_backbone, self._inputs(queries, ids), None, config)

    def _options(self, overrides: dict[str, Any]) -> CaptionOptions:
        check_keys("predict", overrides, tuple(asdict(self.options)))
        return replace(self.options, **overrides)

    def _inputs(self, queries: Tensor, ids: Tensor) -> Tensor:
        """Queries B×Q×D, then the embeddings of B×T ids, in the language model's precision."""
        queries = queries.to(dtype_of(self.text_backbone))
        return torch.cat((queries, self.text_backbone.get_input_embeddings()(ids)), dim=1)

    def _captions(self, sample: DataSample) -> list[str]:
        captions = sample.get("gt_caption")
        if isinstance(captions, str):
            return [captions]
        if not captions:
            raise ValueError(
                f"the picture {sample.get('img_path', sample.get('image_id', '?'))} has no gt_caption to learn from: "
                "let PackInputs pass it on (algorithm_keys=['gt_caption'])"
            )
        count = len(captions) if self.captions_per_picture == "all" else min(self.captions_per_picture, len(captions))
        order = torch.randperm(len(captions))[:count].tolist() if self.training else range(count)
        return [captions[index] for index in order]

    def _tokenized(self, captions: Sequence[str]) -> list[tuple[list[int], int]]:
        """Token ids of ``prompt + ' ' + caption + line feed``, and how many of them are the prompt's."""
        prompt = self.options.prompt.rstrip()
        texts = [f"{prompt} {caption}\n" if prompt else f"{caption}\n" for caption in captions]
        given, *ids = self._encode_texts([prompt, *texts])
        return [(tokens[: len(given) + self.options.max_txt_len], len(given)) for tokens in ids]

    def _encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        if self.tokenizer is None:
            raise ValueError(
                "Blip2Caption was built without a tokenizer: give it one (tokenizer=dict(type='AutoTokenizer', …))"
            )
        if len(self.tokenizer) > self.text_backbone.vocab_size:
            raise ValueError(
                f"{self.tokenizer!r} has {len(self.tokenizer)} tokens, the language model only "
                f"{self.text_backbone.vocab_size}: the two don't belong together"
            )
        return self.tokenizer.encode(texts)

    def _pad_token_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.token_id("\n") if pad is None else pad


def _without_end(output: GenerationOutput) -> list[list[int]]:
    # Padding is cut by length: not every tokenizer takes it for a special token.
    return [ids[:length] for ids, length in zip(output.sequences.tolist(), output.lengths.tolist(), strict=True)]
