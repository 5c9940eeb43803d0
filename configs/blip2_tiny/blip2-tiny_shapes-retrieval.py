# The small BLIP-2 that finds drawn scenes by text and texts by drawn scene.
_base_ = [
    "../_base_/models/blip2_tiny.py",
    "../_base_/datasets/scenes_retrieval.py",
    "../_base_/schedules/scenes_pretrain.py",
]

vision_backbone = _base_.vision_backbone
vision_backbone.frozen_stages = 5

model = dict(
    type="Blip2Retrieval",
    tokenizer={{_base_.qformer_tokenizer}},
    vision_backbone=vision_backbone,
    multimodal_backbone={{_base_.multimodal_backbone}},
    vision_neck=dict(type="LinearClsHead", in_channels=192, num_classes=96),
    text_neck=dict(type="LinearClsHead", in_channels=192, num_classes=96),
    multimodal_head=dict(type="ITMHead", hidden_size=192, with_pooler=False),
    topk=32,
    max_txt_len=48,
)

default_hooks = dict(checkpoint=dict(save_best="mean/retrieval/Recall@1", rule="greater"))
load_from = "configs/blip2_tiny/blip2-tiny_shapes-retrieval.safetensors"
