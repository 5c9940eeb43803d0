# Stage 3: the Q-Former learns to make the frozen language model say what the frozen image encoder sees.
_base_ = ["blip2-tiny_shapes-caption.py"]

load_from = None
model = dict(prompt="")  # the captions to learn are whole sentences

custom_hooks = [
    dict(
        type="LoadParts",
        parts=dict(
            vision_backbone="work_dirs/blip2-tiny_vision_pretrain",
            text_backbone="work_dirs/blip2-tiny_language_pretrain",
        ),
    )
]

train_cfg = dict(max_iters=2800)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=400),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=400, end=2800, eta_min=2e-5),
]
