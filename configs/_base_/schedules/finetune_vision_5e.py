# Fine-tuning that trains the image encoder too: in bf16, norms and biases without weight decay, and a learning rate
# that falls from block to block towards the pictures (1.0: not at all).
_base_ = ["finetune_5e.py"]

optim_wrapper = dict(
    type="AmpOptimWrapper",
    dtype="bfloat16",
    accumulative_counts=1,
    constructor="LearningRateDecayOptimWrapperConstructor",
    paramwise_cfg=dict(layer_decay_rate=0.95, flat_decay_mult=0.0),
)
