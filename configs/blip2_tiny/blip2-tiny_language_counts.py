# The language model goes on with documents that have numbers: how the questions' answers have them. From the first
# iteration on, they would have kept the Q-Former from teaching directions (docs/tiny_model.md).
_base_ = ["blip2-tiny_language_pretrain.py"]

load_from = "work_dirs/blip2-tiny_language_pretrain"
train_dataloader = dict(dataset=dict(ann_file="documents/train_counts.jsonl"))

optim_wrapper = dict(optimizer=dict(lr=3e-4))
train_cfg = dict(max_iters=600, val_interval=300)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=600, eta_min=2e-5),
]
