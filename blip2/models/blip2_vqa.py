"""`Blip2VQA`: a question about a picture goes into the prompt, and the language model's next words are the answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from blip2.registry import MODELS, TOKENIZER
from blip2.structures import DataSample

from .blip2_base import build_part, select_pictures
from .blip2_generative import Blip2Generative, GenerationOptions, matched
from .freeze import freeze
from .language.decoding import CountLengths
from .language.generation import GenerationOutput
from .language.packing import Prompted
from .language.ranking import rank
from .language.tokenizers import pad_sequences
from .portions import joined
from .vqa_samples import Asked, Weighted, asked, weighted_answers


@dataclass(frozen=True)
class VQAOptions(GenerationOptions):
    """What a call of `Blip2VQA.predict` may change; see `Blip2VQA` for the meaning."""

    answers: Sequence[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.answers is None:
            return
        if isinstance(self.answers, str) or not all(isinstance(text, str) and text.strip() for text in self.answers):
            raise ValueError(f"answers={self.answers!r} must be a list of texts to choose from, none of them empty")
        if not self.answers:
            raise ValueError(
                "answers=[] has no candidates to choose from: give some, or None for answers in free words"
            )


@MODELS.register_module()
class Blip2VQA(Blip2Generative[VQAOptions]):
    """BLIP-2 for questions about pictures (arXiv 2301.12597, sections 4.1 and 4.3).

    A data sample has a ``question``, or a list of them about the one picture, which is encoded once for all. Its
    ``prompt`` (a string, or one for each question), where there is one, is what the language model reads in place of
    the filled template: an instruction, or a conversation so far.

    Args:
        vision_backbone, multimodal_backbone, layer_norm_eps, data_preprocessor, init_cfg: see `Blip2Base`.
        text_backbone, vision_neck, tokenizer, end_token: see `Blip2Caption`.
        prompt: template in which ``{}`` stands for the question; spaces at its end are dropped. The paper has
            'Question: {} Answer:' for OPT and 'Question: {} Short answer:' for FlanT5.
        max_txt_len: longest answer in tokens, the end token included. Training cuts longer answers there.
        num_captions: answers per question (mmpretrain's name); above 1, predictions are lists, the best first.
        num_beams, min_length, length_penalty, repetition_penalty, do_sample, top_p, top_k, temperature, seed,
            count_lengths: see `Blip2Caption`. The negative length penalty is the paper's: it favours short answers.
        answers: candidates, of which the likeliest is the answer; None: the language model answers in its own words.
        question_in_qformer: give the question to the Q-Former too, so that its queries look for what is asked (section
            4.3; the published weights were made without). The Q-Former then gets its text branch.
        qformer_tokenizer: config or tokenizer of the Q-Former's words (`Blip2Tokenizer`); for `question_in_qformer`.
    """

    answers_several = True  # the loops may ask all that there is to ask about a picture at once

    def __init__(
        self,
        vision_backbone: Mapping[str, Any] | nn.Module,
        text_backbone: Mapping[str, Any] | nn.Module,
        multimodal_backbone: Mapping[str, Any] | nn.Module,
        vision_neck: Mapping[str, Any] | nn.Module,
        tokenizer: Any = None,
        prompt: str = "Question: {} Answer:",
        max_txt_len: int = 20,
        num_captions: int = 1,
        num_beams: int = 5,
        min_length: int = 1,
        length_penalty: float = -1.0,
        repetition_penalty: float = 1.0,
        do_sample: bool = False,
        top_p: float = 0.9,
        top_k: int = 0,
        temperature: float = 1.0,
        seed: int | None = None,
        count_lengths: CountLengths = "new",
        answers: Sequence[str] | None = None,
        question_in_qformer: bool = False,
        qformer_tokenizer: Any = None,
        end_token: str | None = None,
        layer_norm_eps: float = 1e-5,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: Any = None,
    ) -> None:
        multimodal_backbone = build_part(multimodal_backbone, with_text=question_in_qformer, with_lm_head=False)
        _check_question_in_qformer(question_in_qformer, multimodal_backbone, qformer_tokenizer)
        options = VQAOptions(
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
            answers=answers,
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
        self.question_in_qformer = question_in_qformer
        if question_in_qformer:  # queries read the text, but nothing reads what the last layer makes of it
            last = self.multimodal_backbone.bert.encoder.layer[-1]
            freeze(last.intermediate, last.output)
        is_config = isinstance(qformer_tokenizer, Mapping)
        self.qformer_tokenizer = TOKENIZER.build(dict(qformer_tokenizer)) if is_config else qformer_tokenizer

    def loss(self, images: Tensor, data_samples: Sequence[DataSample] | None) -> dict[str, Tensor]:
        """Mean negative log-likelihood, in nats a token, of the answers and their end tokens after the prompts.

        The prompts are given, not learned. Answers are the samples' ``gt_answer``: a string, or a list of strings whose
        tokens count as much as ``gt_answer_weight`` says (missing: all the same); for a list of questions a list of
        these.
        """
        samples = matched(images, data_samples)
        questions = [asked(sample, self.options.prompt) for sample in samples]
        answers = [row for pair in zip(samples, questions, strict=True) for row in weighted_answers(*pair)]
        lessons = self._lessons(questions, answers)
        queries = self.read(images, questions)
        # The questions of a picture share a row where they share its queries.
        rest = iter(lessons)
        sizes = [1] * len(lessons) if self.question_in_qformer else map(len, questions)
        return {"loss": self.language_loss(queries, [list(islice(rest, size)) for size in sizes])}

    @torch.no_grad()
    def predict(
        self, images: Tensor, data_samples: Sequence[DataSample] | None = None, **overrides: Any
    ) -> list[DataSample]:
        """Write answers into the data samples, which are returned.

        ``pred_answer`` is the text without end token; ``pred_score`` its log-probability under the language model
        divided by its length in tokens, end token included, before any penalty or temperature. Both are lists, the best
        first, if `num_captions` is above 1.

        With candidates (`answers`), ``pred_answer`` is one of them, word for word, and the scores are log-probabilities
        not divided by anything: ``pred_score`` that of the answer, ``pred_answer_scores`` all in the candidates' order.

        A sample with a list of questions gets a list of each of these.

        Args:
            overrides: any field of `VQAOptions` (see the class for their meaning), for this call only.
        """
        options = self._options(overrides)
        samples = matched(images, data_samples)
        questions = [asked(sample, options.prompt) for sample in samples]
        if options.answers is None:
            answers, scores = self.decode(self.generate(images, questions, options), options.num_captions)
            found = {"pred_answer": answers, "pred_score": scores}
        else:
            found = _best(self.rank(images, questions, options.answers), options.answers, options.num_captions)
        for field, values in found.items():
            rest = iter(values)
            for sample, row in zip(samples, questions, strict=True):
                own = list(islice(rest, len(row)))
                setattr(sample, field, own if row.several else own[0])
        return samples

    def generate(self, images: Tensor, questions: Sequence[Asked], options: VQAOptions) -> GenerationOutput:
        """Token ids and scores of answers to the R questions about B×3×H×W pictures, in their order."""
        prompts = self._encode_prompts(questions, options.max_txt_len - 1)
        return self.write(self._read_each(images, questions), prompts, options)

    def rank(self, images: Tensor, questions: Sequence[Asked], answers: Sequence[str]) -> Tensor:
        """Log-probabilities R×C of C candidates, end token included, as answers to the R questions about B×3×H×W
        pictures.
        """
        texts = self._continuations([answer.strip() for answer in answers])
        prompts = self._encode_prompts(questions, max(map(len, texts)) - 1)

        def score(inputs: Tensor, mask: Tensor | None) -> Tensor:
            return rank(self.text_backbone, inputs, mask, texts)

        inputs = self._prompted(self._read_each(images, questions), prompts)
        return joined(self.portions.run("the language model", "prompts", score, *inputs))

    def _read_each(self, images: Tensor, questions: Sequence[Asked]) -> Tensor:
        """R×Q×D, what the language model reads before the prompt of each of the R questions."""
        queries = self.read(images, questions)
        return queries if self.question_in_qformer else queries.index_select(0, _pictures(questions, queries.device))

    def read(self, images: Tensor, questions: Sequence[Asked]) -> Tensor:
        """What the language model reads: B×Q×D for pictures B×3×H×W; with `question_in_qformer` R×Q×D, for each of the
        R questions in their order.
        """
        return self.read_features(self.encode_image(images), questions)

    def read_features(self, image_embeds: Tensor, questions: Sequence[Asked]) -> Tensor:
        """As `read`, of patch features B×N×Dv."""
        if not self.question_in_qformer:
            return self.vision_neck(self.query_image(image_embeds))
        return joined(self.portions.run("the Q-Former", "pictures", self._read_with_questions, image_embeds, questions))

    def _read_with_questions(self, image_embeds: Tensor, questions: Sequence[Asked]) -> Tensor:
        pictures = self.multimodal_backbone.project_encoder(image_embeds)  # once a picture
        if len({len(asks) for asks in questions}) > 1:  # an equal number for each needs no copies
            pictures = select_pictures(pictures, _pictures(questions, image_embeds.device))
        return self.vision_neck(self.query_with_text(pictures, *self._question_ids(questions, image_embeds.device)))

    def _question_ids(self, questions: Sequence[Asked], device: torch.device) -> tuple[Tensor, Tensor]:
        """The Q-Former's token ids R×T of all questions and their mask."""
        texts = [text for row in questions for text in row.questions]
        ids = self.qformer_tokenizer.encode(texts)
        limit = self.multimodal_backbone.config.max_position_embeddings
        for text, tokens in zip(texts, ids, strict=True):
            if len(tokens) > limit:
                raise ValueError(
                    f"the question {_cut(text)!r} has {len(tokens)} tokens, the Q-Former takes {limit}: shorten it"
                )
        return pad_sequences(ids, self.qformer_tokenizer.pad_token_id, "right", device)

    def _lessons(self, questions: Sequence[Asked], answers: Sequence[Weighted]) -> list[Prompted]:
        """Prompts with what is to be learned after each, for all questions in their order."""
        prompts = self._encode_prompts(questions, new_tokens=1)
        texts = iter(self._continuations([answer for row in answers for answer in row]))
        limit = self.options.max_txt_len
        return [
            Prompted(prompt, [text[:limit] for text in islice(texts, len(row))], list(row.values()))
            for prompt, row in zip(prompts, answers, strict=True)
        ]

    def _encode_prompts(self, questions: Sequence[Asked], new_tokens: int) -> list[list[int]]:
        """Token ids of all prompts.

        Raises ValueError for one that, with queries and `new_tokens`, needs more positions than the language model has.
        """
        texts = [text for row in questions for text in row.prompts]
        ids = self._encode_texts(texts)
        longest = max(range(len(ids)), key=lambda index: len(ids[index]))
        try:
            self.text_backbone.check_length(self.query_tokens.shape[1] + len(ids[longest]) + new_tokens)
        except ValueError as error:
            raise ValueError(f"the prompt {_cut(texts[longest])!r} is too long: {error}") from None
        return ids


def _best(scores: Tensor, answers: Sequence[str], num: int) -> dict[str, list[Any]]:
    """The fields of R questions for the scores R×C of their candidates; the `num` best, a list if it is above 1."""
    best = scores.topk(min(num, len(answers)))
    texts = [[answers[index] for index in row] for row in best.indices.tolist()]
    values = best.values.tolist()
    if num == 1:
        texts, values = [row[0] for row in texts], [row[0] for row in values]
    return {"pred_answer": texts, "pred_score": values, "pred_answer_scores": scores.tolist()}


def _pictures(questions: Sequence[Asked], device: torch.device) -> Tensor:
    """Which picture each of the R questions is about."""
    counts = torch.tensor([len(row) for row in questions], device=device)
    return torch.arange(len(questions), device=device).repeat_interleave(counts)


def _check_question_in_qformer(wanted: bool, qformer: Any, tokenizer: Any) -> None:
    if wanted and tokenizer is None:
        raise ValueError(
            "question_in_qformer=True needs a tokenizer for the Q-Former's words: "
            "qformer_tokenizer=dict(type='Blip2Tokenizer', name_or_path=…)"
        )
    if wanted and not qformer.with_text:
        raise ValueError("question_in_qformer=True needs a Q-Former with its text branch: with_text=True")


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"
