"""`Blip2Retrieval`: pictures and texts compared and matched by the Q-Former, and the first stage of pre-training."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from mmengine.dist import get_dist_info, get_world_size
from mmengine.logging import print_log
from torch import Tensor, nn

from blip2.registry import MODELS
from blip2.structures import DataSample

from .blip2_base import Blip2Base, PictureKeysValues, build_part, join_pictures, select_pictures
from .checks import check_choice, check_keys
from .contrastive import LABEL_SMOOTHING, contrastive_loss, gather_rows, hard_negatives, same_item, similarity
from .draw import check_count
from .portions import joined
from .qformer.layers import KeysValues
from .retrieval_scoring import rank_both_ways, refuse_not_finite, similarity_matrix
from .retrieval_texts import TEXTS, TEXTS_ELSEWHERE, texts_of, texts_to_learn, token_ids, trimmed

LOSSES = ("itc", "itm", "itg")
MIN_TEMPERATURE = 0.001


@MODELS.register_module()
class Blip2Retrieval(Blip2Base):
    """BLIP-2 without a language model (arXiv 2301.12597, section 3.1): retrieval, and what stage 1 pre-trains.

    Args:
        vision_backbone, multimodal_backbone, tokenizer, layer_norm_eps, data_preprocessor, init_cfg: see `Blip2Base`.
            The Q-Former gets its text branch and LM head unless its config says otherwise; the tokenizer is a
            `Blip2Tokenizer`.
        text_backbone, head: none; mmpretrain's BLIP models have these.
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
        captions_per_picture: int | Literal["all"] = 1,
        text_backbone: None = None,
        head: None = None,
        layer_norm_eps: float = 1e-5,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: Any = None,
    ) -> None:
        for name, part in (("text_backbone", text_backbone), ("head", head)):
            if part is not None:
                raise ValueError(f"Blip2Retrieval has no {name}: its Q-Former reads the texts; leave {name} out")
        multimodal_backbone = build_part(multimodal_backbone, with_text=True, with_lm_head=True)
        super().__init__(vision_backbone, multimodal_backbone, tokenizer, layer_norm_eps, data_preprocessor, init_cfg)
        self.vision_neck = build_part(vision_neck)
        self.text_neck = build_part(text_neck)
        self.multimodal_head = build_part(multimodal_head)
        if temperature < MIN_TEMPERATURE or topk < 1:
            raise ValueError(f"temperature={temperature} must be {MIN_TEMPERATURE} or more and topk={topk} 1 or more")
        longest = self.multimodal_backbone.config.max_position_embeddings
        if not 3 <= max_txt_len <= longest:
            raise ValueError(f"max_txt_len={max_txt_len} must be from 3 to {longest}, the Q-Former's positions")
        check_keys("loss_weights", loss_weights or {}, LOSSES)
        check_count("captions_per_picture", captions_per_picture)
        self._temperature = float(temperature)
        self.temp = nn.Parameter(torch.tensor(self._temperature))
        self.fast_match = fast_match
        self.topk = topk
        self.max_txt_len = max_txt_len
        self.loss_weights = {**dict.fromkeys(LOSSES, 1.0), **(loss_weights or {})}
        self.captions_per_picture = captions_per_picture
        self._told: set[str] = set()

    def forward(
        self, images: Tensor | None = None, data_samples: Sequence[DataSample] | None = None, mode: str = "tensor"
    ) -> Any:
        """`mode` is 'tensor' (`extract_feat`), 'loss' or 'predict'."""
        check_choice("mode", mode, ("tensor", "loss", "predict"))
        if mode == "tensor":
            return self.extract_feat(images, data_samples)
        return self.loss(images, data_samples) if mode == "loss" else self.predict(images, data_samples)

    def start_afresh(self, names: Sequence[str]) -> None:
        """Gives parameters on the meta device their start: those that a format of checkpoints does without, which are
        `temp` and the Q-Former's LM head.
        """
        if "temp" in names:
            self.temp = nn.Parameter(torch.tensor(self._temperature), requires_grad=self.temp.requires_grad)
        if any(name.startswith("multimodal_backbone.cls.") for name in names):
            self.multimodal_backbone.start_lm_head()

    # ----- features -----

    def extract_feat(
        self, images: Tensor | None = None, data_samples: Sequence[DataSample] | None = None
    ) -> dict[str, Tensor]:
        """`image_features` of pictures and `text_features` of all the data samples' texts; of one alone if need be."""
        features: dict[str, Tensor] = {}
        if images is not None:
            features |= self.image_features(images)
        texts = [text for sample in data_samples or () for text in texts_of(sample)]
        if texts:
            features |= self.text_features(texts)
        if not features:
            raise ValueError("neither pictures nor data samples with a text: there is nothing to extract features of")
        return features

    def image_features(self, images: Tensor) -> dict[str, Tensor]:
        """Of pictures B×3×H×W: ``image_embeds`` B×N×Dv, ``query_hidden`` B×Q×D, and to compare with texts
        ``image_feat``, B×Q×256 of length 1.
        """
        image_embeds = self.encode_image(images)
        query_hidden = self.query_image(image_embeds)
        return {
            "image_embeds": image_embeds,
            "query_hidden": query_hidden,
            "image_feat": F.normalize(self.vision_neck(query_hidden), dim=-1),
        }

    def text_features(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Of M texts: ``input_ids`` and ``attention_mask`` M×T, ``text_hidden`` M×T×D, and to compare with pictures
        ``text_feat``, M×256 of length 1.
        """
        input_ids, attention_mask, _ = self.tokenize(texts, self.query_tokens.device)
        read = self.portions.run("the Q-Former's text branch", "texts", self._read_texts, input_ids, attention_mask)
        text_hidden = joined(read)
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "text_hidden": text_hidden,
            "text_feat": self._text_feat(text_hidden),
        }

    def _read_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.multimodal_backbone(input_ids=input_ids, attention_mask=attention_mask)

    def multimodal_features(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """What the queries find in B pictures when they have read a text of each: B×Q×D.

        `images` are B×3×H×W, or the ``image_embeds`` B×N×Dv of `image_features`.
        """
        if len(images) != len(texts):
            raise ValueError(f"{len(images)} pictures came with {len(texts)} texts: one text a picture is wanted")
        image_embeds = self.encode_image(images) if images.dim() == 4 else images
        input_ids, attention_mask, _ = self.tokenize(texts, image_embeds.device)
        return self.query_with_text(self.multimodal_backbone.project_encoder(image_embeds), input_ids, attention_mask)

    def tokenize(self, texts: Sequence[str], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, int]:
        """Ids and mask M×T of M texts, padded to the longest, and how many were cut; see `token_ids`."""
        vocab_size = self.multimodal_backbone.config.vocab_size
        return token_ids(texts, self.tokenizer, self.max_txt_len, vocab_size, device)

    # ----- scores -----

    def itc_scores(self, image_feat: Tensor, text_feat: Tensor) -> Tensor:
        """Cosines B×M of pictures' B×Q×256 and texts' M×256 features: the best query's."""
        return similarity_matrix(image_feat, text_feat)

    def itm_logits(self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The matching head's logits (no, yes), R×2, of R texts, each with its picture.

        ``image_embeds`` are those of R pictures, or of fewer, B: then R/B consecutive texts share each of them, and its
        cross-attention keys and values are computed once.
        """
        if len(image_embeds) > 1 and image_embeds.stride(0) == 0:
            image_embeds = image_embeds[:1]  # one picture, expanded by the caller
        if not len(image_embeds) or len(input_ids) % len(image_embeds):
            raise ValueError(f"{len(input_ids)} texts cannot be shared out among {len(image_embeds)} pictures")
        pictures = self.multimodal_backbone.project_encoder(image_embeds)
        if len(image_embeds) > 1:
            return self._itm_logits(pictures, input_ids, attention_mask)

        def match(ids: Tensor, mask: Tensor) -> Tensor:
            return self._itm_logits(pictures, *trimmed(ids, mask))

        run, at_most = self.portions.run, TEXTS.get(input_ids.device.type, TEXTS_ELSEWHERE)
        if len(input_ids) <= at_most:
            return joined(run("matching", "texts of a picture", match, input_ids, attention_mask))
        order = attention_mask.sum(1).argsort(stable=True)
        by_length = input_ids[order], attention_mask[order]
        logits = joined(run("matching", "texts of a picture", match, *by_length, at_most=at_most))
        return torch.empty_like(logits).index_copy_(0, order, logits)

    def itm_scores(self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The logit of 'yes', R numbers, which ranking adds to the similarity; arguments as in `itm_logits`."""
        return self.itm_logits(image_embeds, input_ids, attention_mask)[:, 1]

    def itm_probabilities(self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """How probable it is that text and picture match, R numbers of 0 to 1; arguments as in `itm_logits`."""
        return self.itm_logits(image_embeds, input_ids, attention_mask).float().softmax(dim=1)[:, 1]

    @torch.no_grad()
    def predict_all(
        self, image_features: Mapping[str, Tensor], text_features: Mapping[str, Tensor], shared: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Scores of all texts for each picture, B×M, and of all pictures for each text, M×B.

        They are similarities with `fast_match`; otherwise the `topk` most similar of each row have the matching head's
        logit added, and the others, at their similarity less 100, stay behind.

        Args:
            image_features: ``image_feat`` B×Q×256 and, without `fast_match`, ``image_embeds`` B×N×Dv (they may be on
                the CPU for want of memory: one picture at a time goes to the model's device).
            text_features: ``text_feat`` M×256, ``input_ids`` and ``attention_mask`` M×T.
            shared: all processes call this with the same features, do a part each, and get the same scores. False:
                this one works alone.

        Raises:
            FloatingPointError: features that are NaN or infinite; names their numbers.
        """
        image_feat, text_feat = image_features["image_feat"], text_features["text_feat"]
        refuse_not_finite(pictures=image_feat, texts=text_feat)
        scores = self.itc_scores(image_feat, text_feat)
        if self.fast_match:
            return scores, scores.T
        image_embeds = image_features["image_embeds"]
        ids, mask = text_features["input_ids"], text_features["attention_mask"]
        refuse_not_finite(pictures=image_embeds)
        if self.topk > min(len(image_feat), len(text_feat)):
            there = f"{len(image_feat)} pictures, {len(text_feat)} texts"
            self._tell(f"topk={self.topk} is more than there is to be ranked ({there}): all of it is matched")

        def match(picture: int, texts: Tensor) -> Tensor:
            embeds = image_embeds[picture : picture + 1].to(ids.device)
            texts = texts.to(ids.device)
            return self.itm_scores(embeds, ids[texts], mask[texts])

        return rank_both_ways(scores, self.topk, match, get_dist_info() if shared else (0, 1))

    @torch.no_grad()
    def predict(self, images: Tensor | None, data_samples: Sequence[DataSample] | None) -> list[DataSample]:
        """Rank all the texts of the data samples (``text``, one or a list) for each of their pictures.

        Written into the samples, which are returned: ``pred_score``, a score for each text, and ``pred_label``, the
        number of the best. A whole gallery is ranked by `predict_all`, which the retrieval loops call.
        """
        images, samples = self._batch(images, data_samples)
        features = self.extract_feat(images, samples)
        if "text_feat" not in features:
            raise ValueError("the data samples have no text to be ranked: let PackInputs pass on text")
        scores, _ = self.predict_all(features, features, shared=False)
        for sample, row in zip(samples, scores, strict=True):
            sample.pred_score, sample.pred_label = row, row.argmax(0, keepdim=True)
        return samples

    # ----- training -----

    def loss(self, images: Tensor | None, data_samples: Sequence[DataSample] | None) -> dict[str, Tensor]:
        """The losses ``itc_loss``, ``itm_loss`` and ``lm_loss`` (text generation) of B pictures with a text of each.

        The text is the sample's ``text`` or ``gt_caption``; of a list some are drawn (see `captions_per_picture`).
        Pairs with the same ``image_id`` are no negatives of one another.

        Raises:
            FloatingPointError: features that are NaN or infinite; names their numbers in the batch.
        """
        images, samples = self._batch(images, data_samples)
        all_ids, all_masks, owners = self._texts_to_learn(samples, images.device)
        input_ids, attention_mask = trimmed(all_ids[: len(samples)], all_masks[: len(samples)])  # a text of each
        image_embeds = self.encode_image(images)
        pictures = self.multimodal_backbone.project_encoder(image_embeds)  # once, for all three losses
        queries: list[KeysValues] = []
        query_hidden = self.multimodal_backbone(
            query_embeds=self.query_tokens.expand(len(samples), -1, -1),
            encoder_keys_values=pictures,
            kept_keys_values=queries,
        )
        weight, losses = self.loss_weights, {}
        if weight["itc"] or weight["itm"]:
            i2t, t2i = self._similarities(query_hidden, input_ids, attention_mask)
            same = same_item([sample.get("image_id") for sample in samples], i2t.device)
            if weight["itc"]:
                losses["itc_loss"] = weight["itc"] * (contrastive_loss(i2t, same) + contrastive_loss(t2i, same)) / 2
            if weight["itm"]:
                negatives = hard_negatives(t2i, same), hard_negatives(i2t, same)
                logits, matched = self._itm_pairs(image_embeds, pictures, input_ids, attention_mask, *negatives)
                losses["itm_loss"] = weight["itm"] * F.cross_entropy(logits.float(), matched)
                if self.multimodal_head.cal_acc:
                    losses["itm_accuracy"] = 100 * (logits.argmax(1) == matched).float().mean()
        if weight["itg"]:
            losses["lm_loss"] = weight["itg"] * self._itg_loss(queries, all_ids, all_masks, owners)
        return losses

    def _texts_to_learn(self, samples: Sequence[DataSample], device: torch.device) -> tuple[Tensor, Tensor, list[int]]:
        """Ids and mask M×T of a text of each sample, then of their further texts; and whose each of the M texts is."""
        texts = [texts_to_learn(sample, self.captions_per_picture, self.training) for sample in samples]
        owned = list(enumerate(own[0] for own in texts))
        owned += [(owner, text) for owner, own in enumerate(texts) for text in own[1:]]
        ids, masks, num_cut = self.tokenize([text for _, text in owned], device)
        if num_cut:
            self._tell(
                f"texts longer than max_txt_len={self.max_txt_len} tokens are cut (here {num_cut} of {len(owned)})"
            )
        return ids, masks, [owner for owner, _ in owned]

    def _similarities(self, query_hidden: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of contrast, pictures × all texts and texts × all pictures; others' features have no gradient."""
        image_feat = F.normalize(self.vision_neck(query_hidden), dim=-1)
        text_hidden = self.multimodal_backbone(input_ids=input_ids, attention_mask=attention_mask, num_outputs=1)
        text_feat = self._text_feat(text_hidden)
        refuse_not_finite(pictures=image_feat, texts=text_feat)
        # Never 0 or below; the gradient is that of the parameter all the same.
        temperature = self.temp + (self.temp.clamp(min=MIN_TEMPERATURE) - self.temp).detach()
        i2t = similarity(image_feat, gather_rows(text_feat)) / temperature
        if get_world_size() == 1:
            return i2t, i2t.T
        return i2t, similarity(gather_rows(image_feat), text_feat).T / temperature

    def _itm_pairs(
        self,
        image_embeds: Tensor,
        pictures: PictureKeysValues,
        input_ids: Tensor,
        attention_mask: Tensor,
        wrong_pictures: tuple[Tensor, Tensor],
        wrong_texts: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Logits R×2 and classes (1 if matched) of each pair, each text with a wrong picture, each picture with a wrong
        text. The last two arguments are rows of this process and what goes with them of all processes.
        """
        texts, others = wrong_pictures
        own, other_texts = wrong_texts
        right = torch.arange(len(input_ids), device=input_ids.device)
        if get_world_size() > 1:
            everyone = gather_rows(image_embeds, with_gradient=True)
            theirs = self.multimodal_backbone.project_encoder(everyone.index_select(0, others))
            pictures = join_pictures(pictures, theirs)
            others = len(right) + torch.arange(len(others), device=right.device)
        numbers = torch.cat((right, others, own))
        all_ids, all_masks = gather_rows(input_ids), gather_rows(attention_mask)
        longer = all_ids.shape[1] - input_ids.shape[1]  # another process may have a longer text
        ids, mask = F.pad(input_ids, (0, longer)), F.pad(attention_mask, (0, longer))
        ids = torch.cat((ids, ids[texts], all_ids[other_texts]))
        mask = torch.cat((mask, mask[texts], all_masks[other_texts]))
        matched = (torch.arange(len(ids), device=ids.device) < len(input_ids)).long()
        return self._itm_logits(select_pictures(pictures, numbers), ids, mask), matched

    def _itg_loss(
        self, queries: Sequence[KeysValues], input_ids: Tensor, attention_mask: Tensor, owners: Sequence[int]
    ) -> Tensor:
        """Mean negative log-likelihood of each token given the queries, [DEC] in place of [CLS], and the tokens before.

        ``queries`` are their self-attention keys and values: they don't see the text (figure 2's multimodal causal
        mask), so these are the same with and without it. ``owners`` tells the picture of each text.
        """
        if len(owners) > len(queries[0][0]):
            rows = torch.tensor(owners, device=input_ids.device)
            queries = [(keys.index_select(0, rows), values.index_select(0, rows)) for keys, values in queries]
        ids = input_ids.clone()
        ids[:, 0] = self.tokenizer.bos_token_id
        length, before = ids.shape[1] - 1, queries[0][0].shape[2]  # nothing comes after the last token
        mask = torch.ones(length, before + length, dtype=torch.bool, device=ids.device).tril(before)
        hidden = self.multimodal_backbone(input_ids=ids[:, :-1], attention_mask=mask[None], past_keys_values=queries)
        learned = attention_mask[:, 1:].bool()
        logits = self.multimodal_backbone.lm_logits(hidden[learned])  # only where there is something to learn
        return F.cross_entropy(logits.float(), ids[:, 1:][learned], label_smoothing=LABEL_SMOOTHING)

    # ----- parts -----

    def _text_feat(self, text_hidden: Tensor) -> Tensor:
        return F.normalize(self.text_neck(text_hidden[:, 0]), dim=-1)

    def _itm_logits(self, pictures: PictureKeysValues, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """`itm_logits` with the pictures' cross-attention keys and values."""
        logits = self.multimodal_head(self.query_with_text(pictures, input_ids, attention_mask))
        return logits if logits.dim() == 2 else logits.mean(dim=1)

    @staticmethod
    def _batch(images: Tensor | None, data_samples: Sequence[DataSample] | None) -> tuple[Tensor, list[DataSample]]:
        samples = list(data_samples or ())
        if images is None or not samples or len(images) != len(samples):
            count = "no" if images is None else len(images)
            raise ValueError(f"{count} pictures came with {len(samples)} data samples: wanted are as many, with texts")
        return images, samples

    def _tell(self, message: str) -> None:
        """Log `message`, once for this model."""
        if message not in self._told:
            self._told.add(message)
            print_log(message, "current", logging.WARNING)
