# BLIP-2's first stage: contrast, matching and text generation teach the Q-Former what the frozen image encoder sees.
_base_ = ["blip2-tiny_shapes-retrieval.py"]

load_from = None
model = dict(
    captions_per_picture=3,
    loss_weights=dict(itc=0.2, itm=0.4),  # in equal parts, text generation learns more slowly
)

# Besides captions, sentences that give every object its place. Small batches: more steps for the same pictures.
train_dataloader = dict(batch_size=32, dataset=dict(ann_file="annotations/train_places.json"))

custom_hooks = [
    dict(type="LoadParts", parts=dict(vision_backbone="work_dirs/blip2-tiny_vision_pretrain")),
]

train_cfg = dict(max_iters=5500, val_interval=1100)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=300),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=300, end=5500, eta_min=2e-5),
]
