# The small BLIP-2 that captions drawn scenes. Its weights come by the recipe of configs/blip2_tiny/README.md;
# blip2-tiny_qformer_train.py is the last stage of it.
_base_ = [
    "../_base_/models/blip2_tiny.py",
    "../_base_/datasets/scenes_caption.py",
    "../_base_/schedules/scenes_pretrain.py",
]

vision_backbone = _base_.vision_backbone
vision_backbone.frozen_stages = 5

model = dict(
    type="Blip2Caption",
    tokenizer={{_base_.tokenizer}},
    vision_backbone=vision_backbone,
    text_backbone={{_base_.text_backbone}},
    multimodal_backbone={{_base_.multimodal_backbone}},
    vision_neck={{_base_.vision_neck}},
    prompt="",
    max_txt_len=32,
    captions_per_picture=2,
)
