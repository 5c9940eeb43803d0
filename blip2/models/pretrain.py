"""Training the small model's 'off-the-shelf' parts, each on an objective of its own, before BLIP-2 freezes them."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn

from blip2.registry import MODELS, TOKENIZER
from blip2.structures import DataSample

from .blip2_base import build_part
from .checks import check_choice
from .language.generation import GenerationConfig, generate
from .language.packing import Prompted, pack_texts
from .language.tokenizers import pad_sequences


class CaptionDecoder(nn.Module):
    """A transformer that reads patch features and writes text; thrown away when the image encoder is trained.

    Args:
        vocab_size, width, num_layers, num_heads: sizes; the feed-forward part is four times as wide.
        max_positions: longest text in tokens.
    """

    def __init__(self, vocab_size: int, width: int, num_layers: int, num_heads: int, max_positions: int = 64) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(max_positions, width)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)
        layer = nn.TransformerDecoderLayer(
            width, num_heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerDecoder(layer, num_layers, norm=nn.LayerNorm(width))
        self.num_heads = num_heads

    def forward(self, ids: Tensor, positions: Tensor, mask: Tensor, memory: Tensor) -> Tensor:
        """Hidden states B×T×D of ids B×T; `mask` B×T×T is True where a token (row) may look (column)."""
        x = self.tokens(ids) + self.positions(positions)
        blocked = ~mask.repeat_interleave(self.num_heads, 0)
        return self.layers(x, memory.to(x.dtype), tgt_mask=blocked)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.tokens.weight.to(hidden.dtype))


@MODELS.register_module()
class VisionCaptioner(BaseModel):
    """Trains an image encoder by captioning (Tschannen et al., arXiv 2306.07915): a small decoder, cross-attending to
    the patch features, writes the pictures' captions.

    Args:
        vision_backbone: config or module, as in `Blip2Base`. Absolute position embeddings start as 2-D sines and
            cosines: from small random ones the encoder takes far longer to tell where things are.
        tokenizer: config or tokenizer.
        vocab_size: rows of the decoder's embedding, at least the tokenizer's length.
        decoder_layers, decoder_heads: size of the decoder.
        captions_per_picture: how many of a picture's captions, drawn at random, a training step reads.
        max_txt_len: longest caption in tokens that is written.
        opening: words that a predicted caption starts with.
    """

    def __init__(
        self,
        vision_backbone: Mapping[str, Any] | nn.Module,
        tokenizer: Any,
        vocab_size: int,
        decoder_layers: int = 2,
        decoder_heads: int = 6,
        captions_per_picture: int = 3,
        max_txt_len: int = 32,
        opening: str = "there is",
        data_preprocessor: Mapping[str, Any] | None = None,
    ) -> None:
        preprocessor = {"type": "MultiModalDataPreprocessor", **(data_preprocessor or {})}
        super().__init__(data_preprocessor=build_part(preprocessor))
        self.tokenizer = TOKENIZER.build(dict(tokenizer)) if isinstance(tokenizer, Mapping) else tokenizer
        self.vision_backbone = build_part(vision_backbone)
        width = self.vision_backbone.embed_dims
        self.ln_vision_backbone = nn.LayerNorm(width)
        self.decoder = CaptionDecoder(vocab_size, width, decoder_layers, decoder_heads, max_positions=max_txt_len + 32)
        self.captions_per_picture, self.max_txt_len, self.opening = captions_per_picture, max_txt_len, opening
        start_from_sines(self.vision_backbone)

    def forward(self, images: Tensor, data_samples: Sequence[DataSample] | None = None, mode: str = "tensor") -> Any:
        """`mode` 'tensor': patch features B×N×D; 'loss': ``{'loss': …}``; 'predict': samples with ``pred_caption``."""
        check_choice("mode", mode, ("tensor", "loss", "predict"))
        memory = self.ln_vision_backbone(self.vision_backbone(images)[-1])
        if mode == "tensor":
            return memory
        if data_samples is None:
            raise ValueError(f"mode={mode!r} needs data_samples")
        return self._loss(memory, data_samples) if mode == "loss" else self._predict(memory, data_samples)

    def _loss(self, memory: Tensor, data_samples: Sequence[DataSample]) -> dict[str, Tensor]:
        captions = [
            [sample.gt_caption[i] + "\n" for i in torch.randperm(len(sample.gt_caption))[: self.captions_per_picture]]
            for sample in data_samples
        ]
        ids = iter(self.tokenizer.encode([text for row in captions for text in row]))
        # The first token, </s>, is given.
        rows = [[Prompted(text[:1], [text[1:]]) for text in islice(ids, len(row))] for row in captions]
        texts = pack_texts(rows, self.tokenizer.pad_token_id, memory.device)
        mask, positions = texts.attention(0)
        if mask is None:
            mask = _causal(texts.ids)
        hidden = self.decoder(texts.ids, positions, mask, memory)
        rows_, places, targets, _ = texts.predictors(0)
        return {"loss": F.cross_entropy(self.decoder.logits(hidden[rows_, places]).float(), targets)}

    def _predict(self, memory: Tensor, data_samples: Sequence[DataSample]) -> list[DataSample]:
        (given,) = self.tokenizer.encode([self.opening])
        ids = torch.tensor(given, device=memory.device).expand(len(memory), -1)
        end = self.tokenizer.token_id("\n")
        for _ in range(self.max_txt_len):  # greedy and without a cache: this decoder is not meant to be used
            positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
            hidden = self.decoder(ids, positions, _causal(ids), memory)
            ids = torch.cat((ids, self.decoder.logits(hidden[:, -1]).argmax(-1, keepdim=True)), 1)
            if bool((ids == end).any(1).all()):
                break
        for sample, text in zip(data_samples, self.tokenizer.decode(ids), strict=True):
            sample.pred_caption = text.split("\n")[0].strip()
        return list(data_samples)


@MODELS.register_module()
class LanguageModelPretrainer(BaseModel):
    """Trains a language model to predict the next token of documents.

    Args:
        text_backbone: config or module with the methods of `OPTForCausalLM`.
        tokenizer: config or tokenizer.
        max_txt_len: longest continuation in tokens that is written.
    """

    def __init__(self, text_backbone: Mapping[str, Any] | nn.Module, tokenizer: Any, max_txt_len: int = 32) -> None:
        super().__init__()
        self.tokenizer = TOKENIZER.build(dict(tokenizer)) if isinstance(tokenizer, Mapping) else tokenizer
        self.text_backbone = build_part(text_backbone)
        self.max_txt_len = max_txt_len

    def forward(self, data_samples: Sequence[DataSample], mode: str = "loss") -> Any:
        """`mode` 'loss': of the samples' ``text``; 'predict': writes ``pred_text``, what follows ``prompt``."""
        check_choice("mode", mode, ("loss", "predict"))
        return self._loss(data_samples) if mode == "loss" else self._predict(data_samples)

    def _loss(self, data_samples: Sequence[DataSample]) -> dict[str, Tensor]:
        device = self.text_backbone.get_input_embeddings().weight.device
        pad = self.tokenizer.pad_token_id
        ids, mask = pad_sequences(self.tokenizer.encode([s.text for s in data_samples]), pad, "right", device)
        hidden = self.text_backbone.hidden_states(self.text_backbone.get_input_embeddings()(ids))[:, :-1]
        learned = mask[:, 1:].bool()
        logits = self.text_backbone.lm_head(hidden[learned])
        return {"loss": F.cross_entropy(logits.float(), ids[:, 1:][learned])}

    @torch.no_grad()
    def _predict(self, data_samples: Sequence[DataSample]) -> list[DataSample]:
        device = self.text_backbone.get_input_embeddings().weight.device
        end = self.tokenizer.token_id("\n")
        prompts = self.tokenizer.encode([s.prompt for s in data_samples])
        ids, mask = pad_sequences(prompts, self.tokenizer.pad_token_id, "left", device)
        embeds = self.text_backbone.get_input_embeddings()(ids)
        config = GenerationConfig(
            eos_token_id=end, pad_token_id=self.tokenizer.pad_token_id, max_new_tokens=self.max_txt_len, num_beams=1
        )
        output = generate(self.text_backbone, embeds, mask, config)
        for sample, text in zip(data_samples, self.tokenizer.decode(output.sequences), strict=True):
            sample.pred_text = text.split("\n")[0].strip()
        return list(data_samples)


def start_from_sines(vision_backbone: Any) -> None:
    """Set ``pos_embed`` (1×(1+h·w)×D, class token first) to 2-D sines and cosines, zero for the class token."""
    from timm.layers import build_sincos2d_pos_embed  # timm takes a second to import

    pos_embed = vision_backbone.pos_embed
    if pos_embed is None:
        raise ValueError("VisionCaptioner wants absolute position embeddings: give the backbone use_abs_pos_emb=True")
    side = round((pos_embed.shape[1] - 1) ** 0.5)
    with torch.no_grad():
        pos_embed.zero_()
        pos_embed[0, 1:] = build_sincos2d_pos_embed([side, side], dim=pos_embed.shape[2]).to(pos_embed)


def _causal(ids: Tensor) -> Tensor:
    """The causal mask B×T×T, True where a token may look."""
    rows, length = ids.shape
    return torch.ones(length, length, dtype=torch.bool, device=ids.device).tril().expand(rows, -1, -1)
