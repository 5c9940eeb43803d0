_base_ = ["../default_runtime.py"]

# AdamW as in the paper (β 0.9 and 0.98, weight decay 0.05), a short warm-up, then a cosine. A leaf sets `max_iters` and
# the cosine's end; weights and activations are bf16 with fp32 master weights.
optim_wrapper = dict(
    type="MasterWeightsOptimWrapper",
    dtype="bf16",
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
)
train_cfg = dict(by_epoch=False, max_iters=4000, val_interval=1000)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=400),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=400, end=4000, eta_min=2e-5),
]
default_hooks = dict(checkpoint=dict(type="CheckpointHook", interval=500, by_epoch=False, max_keep_ckpts=2))
randomness = dict(seed=0)
