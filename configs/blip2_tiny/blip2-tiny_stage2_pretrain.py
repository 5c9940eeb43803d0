# BLIP-2's second stage: the Q-Former learns to make the frozen language model say what the image encoder sees.
_base_ = ["blip2-tiny_shapes-caption.py"]

load_from = None
model = dict(
    prompt="",  # the captions to learn are whole sentences
    captions_per_picture=3,
    tokenizer=dict(name_or_path="configs/blip2_tiny/tokenizer"),
    text_backbone=dict(vocab_size=528),
)
train_dataloader = dict(batch_size=32)

custom_hooks = [
    dict(
        type="LoadParts",
        parts=dict(
            vision_backbone="work_dirs/blip2-tiny_stage1_pretrain",
            ln_vision_backbone="work_dirs/blip2-tiny_stage1_pretrain",
            query_tokens="work_dirs/blip2-tiny_stage1_pretrain",
            multimodal_backbone="work_dirs/blip2-tiny_stage1_pretrain",
            text_backbone="work_dirs/blip2-tiny_language_counts",
        ),
        allow_unused=["multimodal_backbone"],  # the text branch
    )
]

train_cfg = dict(max_iters=16000, val_interval=2000)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=200, end=16000, eta_min=2e-5),
]
