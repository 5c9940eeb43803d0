# Before the two stages: the language model, on text alone.
_base_ = [
    "../_base_/models/blip2_tiny.py",
    "../_base_/schedules/scenes_pretrain.py",
]

model = dict(
    type="LanguageModelPretrainer",
    text_backbone={{_base_.text_backbone}},
    tokenizer={{_base_.tokenizer}},
)

train_dataloader = dict(
    batch_size=128,
    num_workers=1,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="TextDocuments", data_root="data/scenes", ann_file="documents/train.jsonl"),
)
val_dataloader = dict(
    batch_size=100,
    num_workers=1,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="TextDocuments", data_root="data/scenes", ann_file="documents/val.jsonl", test_mode=True),
)
val_evaluator = dict(type="DocumentAccuracy")
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()

train_cfg = dict(max_iters=3000)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=400),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=400, end=3000, eta_min=2e-5),
]
