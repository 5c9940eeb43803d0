"""`Blip2Retrieval`: pictures and texts compared and matched by the Q-Former, and the first stage of pre-training."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import get_world_size
from torch import Tensor, nn

from blip2.registry import MODELS
from blip2.structures import DataSample

from .blip2_base import Blip2Base, PictureKeysValues, build_part, select_pictures
from .checks import check_choice, check_keys
from .contrastive import LABEL_SMOOTHING, contrastive_loss, gather_rows, hard_negatives, same_item, similarity
from .language.tokenizers import pad_sequences
from .qformer.layers import KeysValues

LOSSES = ("itc", "itm", "itg")


@MODELS.register_module()
class Blip2Retrieval(Blip2Base):
    """BLIP-2 without a language model (arXiv 2301.12597, section 3.1): retrieval, and what stage 1 pre-trains.

    Args:
        vision_backbone, multimodal_backbone, tokenizer, layer_norm_eps, data_preprocessor, init_cfg: see `Blip2Base`.
            The Q-Former gets its text branch and LM head unless its config says otherwise; the tokenizer is a
            `Blip2Tokenizer`.
        vision_neck, text_neck: config or module of the projections into the space where both are compared.
        multimodal_head: config or module of the matching head, `ITMHead`.
        temperature: start of `temp`, a trained parameter, by which similarities are divided in the contrastive loss.
        fast_match: rank by similarity alone, without the matching head.
        topk: how many of the most similar are ranked again by the matching head.
        max_txt_len: longest text in tokens, [CLS] and [SEP] included; longer ones are cut.
        loss_weights: factors of the losses 'itc' (contrast), 'itm' (matching) and 'itg' (text generation), 1 for those
            not named; a loss with 0 is not computed.
    """

    def __init__(
        self,
        vision_backbone: Mapping[str, Any] | nn.Module,
        multimodal_backbone: Mapping[str, Any] | nn.Module,
        vision_neck: Mapping[str, Any] | nn.Module,
        text_neck: Mapping[str, Any] | nn.Module,
        multimodal_head: Mapping[str, Any] | nn.Module,
        tokenizer: Any = None,
        temperature: float = 0.07,
        fast_match: bool = False,
        topk: int = 256,
        max_txt_len: int = 35,
        loss_weights: Mapping[str, float] | None = None,
        layer_norm_eps: float = 1e-5,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: Any = None,
    ) -> None:
        multimodal_backbone = build_part(multimodal_backbone, with_text=True, with_lm_head=True)
        super().__init__(vision_backbone, multimodal_backbone, tokenizer, layer_norm_eps, data_preprocessor, init_cfg)
        self.vision_neck = build_part(vision_neck)
        self.text_neck = build_part(text_neck)
        self.multimodal_head = build_part(multimodal_head)
        self.temp = nn.Parameter(torch.tensor(float(temperature)))
        self.fast_match = fast_match
        self.topk = topk
        self.max_txt_len = max_txt_len
        check_keys("loss_weights", loss_weights or {}, LOSSES)
        self.loss_weights = {**dict.fromkeys(LOSSES, 1.0), **(loss_weights or {})}

    def forward(
        self, images: Tensor | None = None, data_samples: Sequence[DataSample] | None = None, mode: str = "tensor"
    ) -> Any:
        """`mode` is 'tensor' or 'loss'."""
        check_choice("mode", mode, ("tensor", "loss"))
        if mode == "loss":
            return self.loss(images, data_samples)
        raise NotImplementedError

    # ----- training -----

    def loss(self, images: Tensor | None, data_samples: Sequence[DataSample] | None) -> dict[str, Tensor]:
        """The three losses of stage 1, ``itc_loss``, ``itm_loss`` and ``lm_loss``, of B pictures and a text of each.

        The text is the sample's ``text`` or ``gt_caption``; of a list one is drawn (in eval mode: the first). Pairs
        with the same ``image_id`` are no negatives of one another.
        """
        samples = list(data_samples or ())
        if images is None or not samples or len(images) != len(samples):
            count = "no" if images is None else len(images)
            raise ValueError(
                f"{count} pictures came with {len(samples)} data samples: loss wants a text of each picture"
            )
        input_ids, attention_mask, _ = self.tokenize([self._training_text(sample) for sample in samples], images.device)
        image_embeds = self.encode_image(images)
        pictures = self.multimodal_backbone.project_encoder(image_embeds)  # once, for all three losses
        seen: list[KeysValues] = []
        image_feat = self._image_feat(self._queries(pictures, len(images), seen))
        losses = {}
        if self.loss_weights["itc"] or self.loss_weights["itm"]:
            text_feat = self._text_feat(self._text_hidden(input_ids, attention_mask))
            i2t = similarity(image_feat, gather_rows(text_feat)) / self.temp
            t2i = (
                i2t.T if get_world_size() == 1 else similarity_of_texts(text_feat, gather_rows(image_feat)) / self.temp
            )
            _check_finite(i2t, t2i)
            same = same_item([sample.get("image_id") for sample in samples], i2t.device)
            losses["itc_loss"] = (contrastive_loss(i2t, same) + contrastive_loss(t2i, same)) / 2
            if self.loss_weights["itm"]:
                losses["itm_loss"] = self._itm_loss(image_embeds, pictures, input_ids, attention_mask, i2t, t2i, same)
        if self.loss_weights["itg"]:
            losses["lm_loss"] = self._itg_loss(seen, input_ids, attention_mask)
        weights = {"itc_loss": "itc", "itm_loss": "itm", "lm_loss": "itg"}
        return {name: self.loss_weights[weights[name]] * value for name, value in losses.items()}

    def _itm_loss(
        self,
        image_embeds: Tensor,
        pictures: PictureKeysValues,
        input_ids: Tensor,
        attention_mask: Tensor,
        i2t: Tensor,
        t2i: Tensor,
        same: Tensor,
    ) -> Tensor:
        """Matching: each pair, each text with a wrong picture, each picture with a wrong text."""
        texts, wrong_pictures = hard_negatives(t2i, same)
        rows, wrong_texts = hard_negatives(i2t, same)
        if get_world_size() == 1:
            others = select_pictures(pictures, wrong_pictures)
        else:
            everyone = gather_rows(image_embeds, with_gradient=True)
            others = self.multimodal_backbone.project_encoder(everyone.index_select(0, wrong_pictures))
        chosen = select_pictures(pictures, rows)
        all_pictures = tuple(
            None if own is None else tuple(torch.cat(parts) for parts in zip(own, other, mine, strict=True))
            for own, other, mine in zip(pictures, others, chosen, strict=True)
        )
        all_ids, all_masks = gather_rows(input_ids), gather_rows(attention_mask)
        pad = all_ids.shape[1] - input_ids.shape[1]  # another process may have a longer text
        input_ids, attention_mask = F.pad(input_ids, (0, pad)), F.pad(attention_mask, (0, pad))
        text_ids = torch.cat((input_ids, input_ids[texts], all_ids[wrong_texts]))
        text_mask = torch.cat((attention_mask, attention_mask[texts], all_masks[wrong_texts]))
        logits = self._itm_logits(all_pictures, text_ids, text_mask)
        matched = (torch.arange(len(logits), device=logits.device) < len(input_ids)).long()
        return F.cross_entropy(logits.float(), matched)

    def _itg_loss(self, seen: Sequence[KeysValues], input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Generation: each token from the queries and the tokens before it, after [DEC] in place of [CLS]."""
        ids = input_ids.clone()
        ids[:, 0] = self.tokenizer.bos_token_id
        queries = seen[0][0].shape[2]
        length = ids.shape[1]
        mask = torch.ones(length, queries + length, dtype=torch.bool, device=ids.device).tril(queries)
        hidden = self.multimodal_backbone(
            input_ids=ids[:, :-1], attention_mask=mask[None, :-1, :-1], past_keys_values=seen
        )
        learned = attention_mask[:, 1:].bool()
        logits = self.multimodal_backbone.lm_logits(hidden[learned])  # only where there is something to learn
        return F.cross_entropy(logits.float(), ids[:, 1:][learned], label_smoothing=LABEL_SMOOTHING)

    def _training_text(self, sample: DataSample) -> str:
        text = sample.get("text", sample.get("gt_caption"))
        if not text:
            raise ValueError(
                f"the picture {sample.get('img_path', sample.get('image_id', '?'))} has no text to learn from: let "
                "PackInputs pass it on (algorithm_keys=['text'] or ['gt_caption'])"
            )
        if isinstance(text, str):
            return text
        return text[int(torch.randint(len(text), ())) if self.training else 0]

    # ----- parts -----

    def tokenize(self, texts: Sequence[str], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, int]:
        """Ids and mask M×T of texts, padded to the longest, and how many were cut to `max_txt_len`."""
        if self.tokenizer is None:
            raise ValueError(
                "Blip2Retrieval was built without a tokenizer: give it one (tokenizer=dict(type='Blip2Tokenizer', …))"
            )
        ids = self.tokenizer.encode(texts)
        cut = [row if len(row) <= self.max_txt_len else [*row[: self.max_txt_len - 1], row[-1]] for row in ids]
        num_cut = sum(len(row) > self.max_txt_len for row in ids)
        return *pad_sequences(cut, self.tokenizer.pad_token_id, "right", device), num_cut

    def _queries(self, pictures: PictureKeysValues, rows: int, kept: list[KeysValues] | None = None) -> Tensor:
        queries = self.query_tokens.expand(rows, -1, -1)
        return self.multimodal_backbone(query_embeds=queries, encoder_keys_values=pictures, kept_keys_values=kept)

    def _text_hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.multimodal_backbone(input_ids=input_ids, attention_mask=attention_mask, num_outputs=1)

    def _image_feat(self, query_hidden: Tensor) -> Tensor:
        return F.normalize(self.vision_neck(query_hidden), dim=-1)

    def _text_feat(self, text_hidden: Tensor) -> Tensor:
        return F.normalize(self.text_neck(text_hidden[:, 0]), dim=-1)

    def _itm_logits(self, pictures: PictureKeysValues, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits R×2 (not matched, matched) of R texts, each with its picture: R pictures, or R/k for k texts each."""
        return self.multimodal_head(self.query_with_text(pictures, input_ids, attention_mask)).mean(dim=1)


def similarity_of_texts(text_feat: Tensor, image_feat: Tensor) -> Tensor:
    """B×D features of texts and M×Q×D of pictures to B×M, as `similarity`."""
    return similarity(image_feat, text_feat).T


def _check_finite(*logits: Tensor) -> None:
    if not all(bool(value.isfinite().all()) for value in logits):
        raise FloatingPointError("the features of pictures and texts have values that are no numbers")
