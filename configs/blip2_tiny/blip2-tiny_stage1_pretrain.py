# BLIP-2's first stage: contrast, matching and text generation teach the Q-Former what the frozen image encoder sees.
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
    max_txt_len=35,
)

custom_hooks = [
    dict(type="LoadParts", parts=dict(vision_backbone="work_dirs/blip2-tiny_vision_pretrain")),
]

default_hooks = dict(checkpoint=dict(save_best="mean/retrieval/Recall@1", rule="greater"))
train_cfg = dict(max_iters=4000, val_interval=500)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=400),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=400, end=4000, eta_min=2e-5),
]
