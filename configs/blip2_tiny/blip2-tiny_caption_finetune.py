# Fine-tunes stage 2 on captions that go on from a prompt: as blip2-tiny_shapes-caption has it.
_base_ = ["blip2-tiny_stage2_pretrain.py"]

model = dict(prompt="there is")
custom_hooks = []

load_from = "work_dirs/blip2-tiny_stage2_pretrain"

optim_wrapper = dict(optimizer=dict(lr=3e-4))
train_cfg = dict(max_iters=800, val_interval=400)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=100, end=800, eta_min=2e-5),
]
