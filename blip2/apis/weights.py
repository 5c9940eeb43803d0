"""What a config takes over from the weights that it is used with."""

from mmengine.config import Config

from blip2.checkpoints import Source

# Rows of the language model's words, by its class.
_WORDS = {
    "OPTForCausalLM": "text_backbone.model.decoder.embed_tokens.weight",
    "T5ForConditionalGeneration": "text_backbone.shared.weight",
}


def follow_source(config: Config, weights: Source) -> None:
    """Sets the model's `layer_norm_eps` and its language model's `vocab_size` to those of the weights, in place.

    Hugging Face's files have another epsilon than LAVIS's and OpenMMLab's, and some have more rows of words than the
    language model's own (50304 of 50272). `img_size` stays: position embeddings are resized to it.
    """
    model = config.get("model")
    if not isinstance(model, dict):
        return
    eps = weights.settings.get("layer_norm_eps")
    if eps is not None and "vision_backbone" in model:
        model["layer_norm_eps"] = eps
    language_model = model.get("text_backbone")
    if isinstance(language_model, dict):
        words = weights.tensors.get(_WORDS.get(str(language_model.get("type")), ""))
        if words is not None:
            language_model["vocab_size"] = len(words)
