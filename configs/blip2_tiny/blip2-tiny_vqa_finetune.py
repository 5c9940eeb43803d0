# Fine-tunes stage 2 on questions: how blip2-tiny_shapes-vqa came about. The Q-Former's text branch, which stage 2 has
# no use for, is stage 1's.
_base_ = ["blip2-tiny_shapes-vqa.py"]

load_from = None
custom_hooks = [
    dict(
        type="LoadParts",
        parts=dict(
            vision_backbone="work_dirs/blip2-tiny_stage2_pretrain",
            ln_vision_backbone="work_dirs/blip2-tiny_stage2_pretrain",
            query_tokens="work_dirs/blip2-tiny_stage2_pretrain",
            multimodal_backbone=["work_dirs/blip2-tiny_stage1_pretrain", "work_dirs/blip2-tiny_stage2_pretrain"],
            vision_neck="work_dirs/blip2-tiny_stage2_pretrain",
            text_backbone="work_dirs/blip2-tiny_language_counts",
        ),
        allow_unused=["multimodal_backbone"],  # stage 1's LM head
    )
]

train_cfg = dict(max_iters=4000, val_interval=1000)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=200, end=4000, eta_min=2e-5),
]
