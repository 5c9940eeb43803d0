_base_ = ["../default_runtime.py"]

# Stage 1 of the pre-training (arXiv 2301.12597, section 3.4): 250,000 steps of 1,680 pictures, AdamW, a warm-up of
# 2,000 steps to 1e-4, then a cosine. The paper does not say where it ends; 1e-5 is what LAVIS's released config has.
# Norms and biases have no weight decay, as in LAVIS.
optim_wrapper = dict(
    type="AmpOptimWrapper",
    dtype="bfloat16",
    accumulative_counts=1,
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.98), weight_decay=0.05),
    constructor="LearningRateDecayOptimWrapperConstructor",
    paramwise_cfg=dict(layer_decay_rate=1.0, flat_decay_mult=0.0),
)

param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=2000),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=2000, end=250000),
]

train_cfg = dict(by_epoch=False, max_iters=250000)
default_hooks = dict(checkpoint=dict(type="CheckpointHook", interval=5000, by_epoch=False, max_keep_ckpts=3))
auto_scale_lr = dict(enable=False, base_batch_size=1680)
