"""The same captioning in ``transformers``: `Blip2ForConditionalGeneration` with our model's weights copied in."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from blip2.checkpoints import CheckpointError
from blip2.checkpoints.convert import from_ours
from blip2.checkpoints.hf_config import hf_config
from blip2.models.blip2_generative import Blip2Generative
from blip2.models.blip2_vqa import Blip2VQA
from blip2.models.language.opt import OPTForCausalLM
from blip2.models.language.tokenizers import pad_sequences

from .answerer import drawn_questions
from .answers import TokenIds
from .captioner import Captioner
from .contender import reading
from .work import VQAWork, Work


class PeerUnavailableError(RuntimeError):
    """The peer cannot be measured here; the text says why and what to do."""


def convert_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of a `Blip2Caption`'s or `Blip2VQA`'s weights under transformers' keys."""
    return {key: value.detach().clone() for key, value in from_ours(state, "hf").tensors.items()}


class TransformersCaptioner(Captioner):
    """`Blip2ForConditionalGeneration` and `BlipImageProcessorPil`, as their users call them.

    Args:
        model: ours, in fp32; its weights are copied.
        picture_size: height and width of the pictures that the model is given.
        work: what will be asked of it.

    Raises:
        PeerUnavailableError: transformers is missing or too old, or has no such architecture.
    """

    name = "transformers"

    def __init__(self, model: Blip2Generative, picture_size: tuple[int, int], work: Work) -> None:
        try:
            from transformers import BlipImageProcessorPil
        except ImportError as error:
            raise PeerUnavailableError(f"{error}; install it with: pip install 'transformers>=5.23'") from error
        _check_expressible(model)
        self.device = next(model.parameters()).device
        self.model = _copy(model)
        self.interpolate = picture_size != model.vision_backbone.img_size
        normalization = model.data_preprocessor
        self.processor = BlipImageProcessorPil(
            size={"height": picture_size[0], "width": picture_size[1]},
            image_mean=(normalization.mean / 255).flatten().tolist(),  # on the scale of 0 to 1
            image_std=(normalization.std / 255).flatten().tolist(),
        )
        self.dtype = torch.float32
        tokenizer = model.tokenizer
        options = work.options(model.options)
        queries = [self.model.config.image_token_index] * self.model.config.num_query_tokens
        rows = [queries + ids for ids in tokenizer.encode(self.prompts(options.prompt, work))]
        self.ids, self.mask = pad_sequences(rows, tokenizer.pad_token_id, "left", self.device)
        self.arguments = dict(
            num_beams=work.num_beams,
            do_sample=False,
            min_new_tokens=work.max_new_tokens,
            max_new_tokens=work.max_new_tokens,
            eos_token_id=tokenizer.token_id("\n"),
            pad_token_id=tokenizer.pad_token_id,
        )

    def prompts(self, template: str, work: Any) -> list[str]:
        """What is read after the queries of each answer; one text: of all answers."""
        return [template]

    def decode(self, files: Sequence[Path]) -> Tensor:
        images = []
        for file in files:
            with Image.open(file) as image:
                images.append(image.convert("RGB"))
        pixels = self.processor(images=images, return_tensors="pt")["pixel_values"]
        return pixels.to(self.device, self.dtype)

    @torch.inference_mode()
    def vision(self, images: Tensor) -> Tensor:
        return self.model.vision_model(images, interpolate_pos_encoding=self.interpolate).last_hidden_state

    @torch.inference_mode()
    def qformer(self, features: Tensor) -> Tensor:
        queries = self.model.qformer(
            query_embeds=self.model.query_tokens.expand(len(features), -1, -1),
            encoder_hidden_states=features,
            encoder_attention_mask=torch.ones(features.shape[:-1], dtype=torch.long, device=self.device),
        ).last_hidden_state
        return self.model.language_projection(queries.to(features.dtype))

    @torch.inference_mode()
    def generation(self, queries: Tensor) -> tuple[Tensor, float]:
        ids, mask = self._inputs(len(queries))
        words = self.model.get_input_embeddings()(ids)
        embeds = words.masked_scatter((ids == self.model.config.image_token_index)[..., None], queries.to(words.dtype))
        language_model = self.model.language_model
        with _FirstCallClock(language_model, self.device) as clock:
            found = language_model.generate(inputs_embeds=embeds, attention_mask=mask, input_ids=ids, **self.arguments)
        return found[:, ids.shape[1] :], clock.seconds

    @torch.inference_mode()
    def answer(self, files: Sequence[Path]) -> TokenIds:
        pixels = self.decode(files)
        ids, mask = self._inputs(len(pixels))
        found = self.model.generate(
            pixel_values=pixels,
            input_ids=ids,
            attention_mask=mask,
            interpolate_pos_encoding=self.interpolate,
            **self.arguments,
        )
        return TokenIds(found[:, ids.shape[1] :])

    def cast(self, dtype: torch.dtype) -> None:
        self.model.to(dtype)
        self.dtype = dtype

    def set_precision(self, precision: str) -> None:
        self.cast({"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision])
        if precision == "fp16":  # as its `from_pretrained` does
            self.model.qformer.float()
            self.model.query_tokens.data = self.model.query_tokens.float()

    def _inputs(self, count: int) -> tuple[Tensor, Tensor]:
        """Token ids and mask of `count` answers: places of the queries, then the prompt."""
        if len(self.ids) == 1:
            return self.ids.expand(count, -1), self.mask.expand(count, -1)
        return self.ids[:count], self.mask[:count]


class TransformersAnswerer(TransformersCaptioner):
    """The same for questions: a picture comes again with each."""

    def __init__(self, model: Blip2VQA, picture_size: tuple[int, int], work: VQAWork) -> None:
        self.copies = work.questions
        super().__init__(model, picture_size, work)

    def prompts(self, template: str, work: VQAWork) -> list[str]:
        return [prompt for row in drawn_questions(work, template) for prompt in row.prompts]

    def decode(self, files: Sequence[Path]) -> Tensor:
        return super().decode([file for file in files for _ in range(self.copies)])


class _FirstCallClock:
    """Times the first call of a module while it is open."""

    def __init__(self, module: torch.nn.Module, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0
        self._hooks = [module.register_forward_pre_hook(self._begin), module.register_forward_hook(self._end)]

    def __enter__(self) -> "_FirstCallClock":
        return self

    def __exit__(self, *_: object) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def _begin(self, *_: object) -> None:
        self._start = reading(self.device)

    def _end(self, *_: object) -> None:
        self.seconds = reading(self.device) - self._start
        self.__exit__()  # the calls after the first go on undisturbed


def _check_expressible(model: Blip2Generative) -> None:
    """Raises PeerUnavailableError, naming the part, if transformers' BLIP-2 has no such model."""
    processor = model.data_preprocessor
    if not getattr(processor, "to_rgb", False) or not hasattr(processor, "mean"):
        reason = "its data preprocessor does not turn BGR into normalised RGB"
        raise PeerUnavailableError(f"transformers' BLIP-2 has no such model: {reason}")
    if not isinstance(model.text_backbone, OPTForCausalLM):
        name = type(model.text_backbone).__name__
        raise PeerUnavailableError(f"only models with an OPTForCausalLM are timed beside transformers, not a {name}")
    try:
        hf_config(model)
    except CheckpointError as error:
        raise PeerUnavailableError(str(error)) from None


def _copy(model: Blip2Generative) -> Any:
    from transformers import Blip2ForConditionalGeneration

    config = hf_config(model)
    config.image_token_index = config.text_config.vocab_size - 1  # which the stand-in tokenizer never gives
    with torch.device("meta"):
        peer = Blip2ForConditionalGeneration(config)
    peer.load_state_dict(convert_state_dict(model.state_dict()), assign=True)
    peer.tie_weights()
    # transformers takes one epsilon for all norms of its vision model; ours is the config's.
    peer.vision_model.post_layernorm.eps = model.ln_vision_backbone.eps
    return peer.eval().requires_grad_(False)
