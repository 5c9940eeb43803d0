"""`Blip2Caption`: the queries' findings, projected, are read by a frozen language model that goes on in words."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from blip2.registry import MODELS
from blip2.structures import DataSample

from .blip2_base import build_part
from .blip2_generative import Blip2Generative, GenerationOptions, matched, picture_name
from .draw import check_count, drawn
from .language.decoding import CountLengths
from .language.generation import GenerationOutput
from .language.packing import Prompted


@MODELS.register_module()
class Blip2Caption(Blip2Generative[GenerationOptions]):
    """BLIP-2 for image captions (arXiv 2301.12597).

    The language model is always frozen; the image encoder as its own config says (``frozen_stages``); layer norm,
    queries, Q-Former and projection are trained.

    Args:
        vision_backbone, multimodal_backbone, layer_norm_eps, data_preprocessor, init_cfg: see `Blip2Base`.
        text_backbone: config or module of the language model.
        vision_neck: config or module of the projection into the language model's width.
        tokenizer: config or tokenizer of the language model; needed by `loss` and `predict`, read at first use.
        prompt: what the captions continue; spaces at its end are dropped.
        max_txt_len: longest caption in tokens, the end token included and the prompt not. Training cuts longer captions
            there.
        num_captions: captions per picture; above 1, predictions are lists, the best first (samples: as drawn).
        num_beams: width of the beam search; 1 is greedy search. Ignored when `do_sample` is on.
        min_length: least number of tokens before the end token.
        length_penalty: beams are ranked by log-probability divided by length to this power.
        repetition_penalty: above 1, words already written become less likely.
        count_lengths: 'new': `min_length` and `length_penalty` count the new tokens; 'start' and 'prompt' are the older
            ways that published scores were measured in (see `GenerationConfig`).
        do_sample: nucleus sampling with `top_p`, `top_k` (0: all tokens), `temperature` and `seed` instead of a search.
        captions_per_picture: of a picture with a list of captions, `loss` takes this many at once, or 'all'. They are
            drawn at random in training mode and are the first ones in eval mode. The picture is encoded once for all of
            them.
        prefix_captions: `loss` gives the words up to a random place of each caption (in eval mode: the middle) after
            the prompt, and has the rest learned: prefix language modelling, by which the paper trains models with an
            encoder (section 3.2).
        end_token: what ends a caption; must be one token of the tokenizer. None: what the published weights take, a
            line feed for OPT and ``</s>`` for T5. For a language model whose tokenizer has no line feed, its
            end-of-text token will do.
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
        count_lengths: CountLengths = "new",
        captions_per_picture: int | Literal["all"] = 1,
        prefix_captions: bool = False,
        end_token: str | None = None,
        layer_norm_eps: float = 1e-5,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: Any = None,
    ) -> None:
        # Captions come from the language model: the Q-Former reads no text.
        multimodal_backbone = build_part(multimodal_backbone, with_text=False, with_lm_head=False)
        options = GenerationOptions(
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
            count_lengths=count_lengths,
        )
        super().__init__(
            vision_backbone,
            text_backbone,
            multimodal_backbone,
            vision_neck,
            tokenizer,
            options,
            end_token,
            layer_norm_eps,
            data_preprocessor,
            init_cfg,
        )
        check_count("captions_per_picture", captions_per_picture)
        self.captions_per_picture = captions_per_picture
        self.prefix_captions = prefix_captions

    def loss(self, images: Tensor, data_samples: Sequence[DataSample] | None) -> dict[str, Tensor]:
        """Mean negative log-likelihood, in nats a token, of the captions and their end tokens after ``prompt + ' '``.

        Captions are the samples' ``gt_caption``: a string, or a list of strings (see `captions_per_picture`).
        """
        captions = [self._captions(sample) for sample in matched(images, data_samples)]
        return {"loss": self.language_loss(self.encode(images), [self._lessons(texts) for texts in captions])}

    @torch.no_grad()
    def predict(
        self, images: Tensor, data_samples: Sequence[DataSample] | None = None, **overrides: Any
    ) -> list[DataSample]:
        """Write captions into the data samples (new ones if there are none), which are returned.

        ``pred_caption`` is the text without prompt and end token; ``pred_score`` its log-probability under the language
        model divided by its length in tokens, end token included, before any penalty or temperature. Both are lists,
        the best first, if `num_captions` is above 1. A sample's own ``prompt``, if it has one, is continued in place of
        the model's.

        Args:
            overrides: any field of `GenerationOptions` (see the class for their meaning), for this call only.
        """
        options = self._options(overrides)
        samples = [DataSample() for _ in images] if data_samples is None else matched(images, data_samples)
        prompts = [sample.get("prompt", options.prompt) for sample in samples]
        captions, scores = self.decode(self.generate(images, options, prompts), options.num_captions)
        for sample, caption, score in zip(samples, captions, scores, strict=True):
            sample.pred_caption, sample.pred_score = caption, score
        return samples

    def generate(
        self, images: Tensor, options: GenerationOptions, prompts: Sequence[str] | None = None
    ) -> GenerationOutput:
        """Token ids and scores of the captions of B×3×H×W pictures; `prompts` has one for each picture."""
        texts = [options.prompt] * len(images) if prompts is None else prompts
        return self.write(self.encode(images), self._encode_texts([text.rstrip() for text in texts]), options)

    def _captions(self, sample: DataSample) -> list[str]:
        captions = sample.get("gt_caption")
        if isinstance(captions, str):
            return [captions]
        if not captions:
            raise ValueError(
                f"{picture_name(sample)} has no gt_caption to learn from: let PackInputs pass it on "
                "(algorithm_keys=['gt_caption'])"
            )
        return drawn(captions, self.captions_per_picture, self.training)

    def _lessons(self, captions: Sequence[str]) -> list[Prompted]:
        """Token ids of what is given, and of what is to be learned after it: captions with their end tokens."""
        prompt = self.options.prompt.rstrip()
        if not self.prefix_captions:
            return [self._lesson(prompt, captions)]
        lessons = []
        for caption in captions:
            words = caption.split()
            place = int(torch.randint(len(words), ())) if self.training else len(words) // 2
            lessons.append(self._lesson(" ".join([prompt, *words[:place]]).lstrip(), [" ".join(words[place:])]))
        return lessons

    def _lesson(self, given: str, texts: Sequence[str]) -> Prompted:
        (ids,) = self._encode_texts([given])
        learned = self._continuations(texts, after_prompt=bool(given))
        return Prompted(ids, [text[: self.options.max_txt_len] for text in learned])
