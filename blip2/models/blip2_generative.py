"""`Blip2Generative`: picture to words, the part that captioning and question answering share.

The queries' findings, projected, are read by a frozen language model that goes on in words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blip2.structures import DataSample

from .blip2_base import Blip2Base, build_part, dtype_of
from .checks import check_choice, check_keys
from .freeze import freeze
from .language.decoding import CountLengths
from .language.generation import GenerationConfig, GenerationOutput, generate
from .language.packing import Prompted, pack_texts
from .language.tokenizers import pad_sequences


@dataclass(frozen=True)
class GenerationOptions:
    """What a call of `predict` may change; see `Blip2Caption` for the meaning."""

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
    count_lengths: CountLengths

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

    def generation(self, eos_token_id: int, pad_token_id: int, prompt_tokens: int = 0) -> GenerationConfig:
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
            count_lengths=self.count_lengths,
            prompt_tokens=prompt_tokens,
        )


Options = TypeVar("Options", bound=GenerationOptions)


class Blip2Generative(Blip2Base, Generic[Options]):
    """`Blip2Base` with the projection and the language model, which is always frozen.

    Args:
        vision_backbone, multimodal_backbone, tokenizer, layer_norm_eps, data_preprocessor, init_cfg: see `Blip2Base`.
        text_backbone: config or module of the language model.
        vision_neck: config or module of the projection into the language model's width.
        options: what `predict` does where a call does not say otherwise.
        end_token: what ends a text; one token of the tokenizer. None: the language model's own choice, if it has one,
            else a line feed.
    """

    def __init__(
        self,
        vision_backbone: Mapping[str, Any] | nn.Module,
        text_backbone: Mapping[str, Any] | nn.Module,
        multimodal_backbone: Mapping[str, Any] | nn.Module,
        vision_neck: Mapping[str, Any] | nn.Module,
        tokenizer: Any,
        options: Options,
        end_token: str | None,
        layer_norm_eps: float,
        data_preprocessor: Mapping[str, Any] | nn.Module | None,
        init_cfg: Any,
    ) -> None:
        super().__init__(vision_backbone, multimodal_backbone, tokenizer, layer_norm_eps, data_preprocessor, init_cfg)
        self.vision_neck = build_part(vision_neck)
        self.text_backbone = build_part(text_backbone)
        freeze(self.text_backbone)
        self.options = options
        self.end_token = getattr(self.text_backbone, "end_token", "\n") if end_token is None else end_token

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

    def loss(self, images: Tensor, data_samples: Sequence[DataSample] | None) -> dict[str, Tensor]:
        raise NotImplementedError

    def predict(
        self, images: Tensor, data_samples: Sequence[DataSample] | None = None, **overrides: Any
    ) -> list[DataSample]:
        raise NotImplementedError

    def encode(self, images: Tensor) -> Tensor:
        """Pictures B×3×H×W to B×Q×D, what the language model is given to read."""
        return self.vision_neck(self.query_image(self.encode_image(images)))

    def language_loss(self, queries: Tensor, rows: Sequence[Sequence[Prompted]]) -> Tensor:
        """Weighted mean negative log-likelihood, in nats a token, of texts after B×Q×D queries and their prompts.

        Row b has what is to be learned about picture b: the texts of a row don't see one another.
        """
        if self._reads_with_encoder():
            return self._decoder_loss(queries, rows)
        texts = pack_texts(rows, self._pad_token_id(), queries.device)
        num_queries = queries.shape[1]
        self.text_backbone.check_length(num_queries + texts.longest)
        mask, positions = texts.attention(num_queries)
        hidden = self.text_backbone.hidden_states(self._inputs(queries, texts.ids), mask, positions)
        row, place, targets, weights = texts.predictors(num_queries)
        logits = self.text_backbone.lm_head(hidden[row, place])  # only where there is something to learn
        losses = F.cross_entropy(logits.float(), targets, reduction="none")
        return (losses * weights).sum() / weights.sum()

    def _decoder_loss(self, queries: Tensor, rows: Sequence[Sequence[Prompted]]) -> Tensor:
        """`language_loss` of a language model whose encoder reads queries and prompt, and whose decoder the text."""
        prompts = [prompted for row in rows for prompted in row]
        picture = torch.tensor([index for index, row in enumerate(rows) for _ in row], device=queries.device)
        prompt = torch.tensor([index for index, item in enumerate(prompts) for _ in item.texts], device=queries.device)
        inputs, mask = self._prompted(queries[picture], [item.given for item in prompts])
        encoded = self.text_backbone.read(inputs, mask)[prompt]  # each prompt is read once for all of its texts
        texts = [text for item in prompts for text in item.texts]
        ids, learned = pad_sequences(texts, self._pad_token_id(), "right", queries.device)
        hidden = self.text_backbone.hidden_states(ids, encoded, None if mask is None else mask[prompt])
        text, place = learned.nonzero(as_tuple=True)
        logits = self.text_backbone.lm_head(hidden[text, place])
        losses = F.cross_entropy(logits.float(), ids[text, place], reduction="none")
        counts = [weight for item in prompts for weight in item.weights or [1.0] * len(item.texts)]
        weights = torch.tensor(counts, device=queries.device)[text]
        return (losses * weights).sum() / weights.sum()

    def write(self, queries: Tensor, prompts: Sequence[Sequence[int]], options: GenerationOptions) -> GenerationOutput:
        """Token ids and scores of what follows R×Q×D queries and the token ids of R prompts."""
        # What a decoder's own start token is, its prompt is not: the encoder reads that.
        counted = 1 if self._reads_with_encoder() else max(map(len, prompts))
        config = options.generation(self._end_token_id(), self._pad_token_id(), counted)

        def run(inputs: Tensor, mask: Tensor | None) -> GenerationOutput:
            return generate(self.text_backbone, inputs, mask, config)

        parts = self.portions.run("the language model", "prompts", run, *self._prompted(queries, prompts))
        return GenerationOutput.joined(parts, config.pad_token_id)

    def decode(self, output: GenerationOutput, num: int) -> tuple[list[Any], list[Any]]:
        """Text and score of each of R prompts; with `num` above 1 lists of them, the best first."""
        # Padding is cut by length: not every tokenizer takes it for a special token.
        ids = [row[:length] for row, length in zip(output.sequences.tolist(), output.lengths.tolist(), strict=True)]
        texts = [text.strip() for text in self.tokenizer.decode(self._without_end(ids))]
        scores = output.scores.tolist()
        if num == 1:
            return texts, scores
        starts = range(0, len(texts), num)
        return [texts[i : i + num] for i in starts], [scores[i : i + num] for i in starts]

    def _without_end(self, ids: list[list[int]]) -> list[list[int]]:
        end = self._end_token_id()
        return [row[:-1] if row and row[-1] == end else row for row in ids]

    def _prompted(self, queries: Tensor, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
        """Embeddings R×S×D of queries R×Q×D and prompts, and the mask R×S; None where no prompt is padded."""
        ids, mask = pad_sequences(prompts, self._pad_token_id(), "left", queries.device)
        inputs = self._inputs(queries, ids)
        if all(len(prompt) == ids.shape[1] for prompt in prompts):
            return inputs, None
        mask = torch.cat((mask.new_ones(queries.shape[:2]), mask), 1)
        order = mask.argsort(dim=1, stable=True)  # padding before the queries: some models look a fixed way back
        return inputs.gather(1, order[..., None].expand_as(inputs)), mask.gather(1, order)

    def _inputs(self, queries: Tensor, ids: Tensor) -> Tensor:
        """Queries B×Q×D, then the embeddings of B×T ids, in the language model's precision."""
        queries = queries.to(dtype_of(self.text_backbone))
        return torch.cat((queries, self.text_backbone.get_input_embeddings()(ids)), dim=1)

    def _options(self, overrides: dict[str, Any]) -> Options:
        check_keys("predict", overrides, [option.name for option in fields(self.options)])
        return replace(self.options, **overrides)  # type: ignore[return-value]

    def _continuations(self, texts: Sequence[str], after_prompt: bool = True) -> list[list[int]]:
        """Token ids of texts and the end token, as they follow a prompt (or, without one, begin a text)."""
        if self._reads_with_encoder():  # the decoder begins a text of its own
            end = self._end_token_id()
            return [[*ids, end] for ids in self.tokenizer.encode(list(texts), add_special_tokens=False)]
        # A space makes the next word a token of its own whatever stands before it, so a colon does for any prompt.
        opening = ":" if after_prompt else ""
        space = " " if after_prompt else ""
        before, *ids = self._encode_texts([opening, *(f"{opening}{space}{text}{self.end_token}" for text in texts)])
        return [tokens[len(before) :] for tokens in ids]

    def _reads_with_encoder(self) -> bool:
        return getattr(self.text_backbone, "is_encoder_decoder", False)

    def _encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        if self.tokenizer is None:
            name = type(self).__name__
            raise ValueError(
                f"{name} was built without a tokenizer: give it one (tokenizer=dict(type='AutoTokenizer', …))"
            )
        if len(self.tokenizer) > self.text_backbone.vocab_size:
            raise ValueError(
                f"{self.tokenizer!r} has {len(self.tokenizer)} tokens, the language model only "
                f"{self.text_backbone.vocab_size}: the two don't belong together"
            )
        return self.tokenizer.encode(texts)

    def _end_token_id(self) -> int:
        return self.tokenizer.token_id(self.end_token)

    def _pad_token_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return self._end_token_id() if pad is None else pad


def matched(images: Tensor, data_samples: Sequence[DataSample] | None) -> list[DataSample]:
    """The data samples; raises ValueError unless there is one for each picture."""
    samples = list(data_samples or ())
    if len(samples) != len(images):
        raise ValueError(f"{len(images)} pictures came with {len(samples)} data samples")
    return samples


def picture_name(sample: DataSample) -> str:
    """What an error calls the picture of a sample."""
    return f"the picture {sample.get('img_path', sample.get('image_id', '?'))}"
