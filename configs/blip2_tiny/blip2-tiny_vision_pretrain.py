# Before the two stages: the image encoder, by captioning with a decoder that is thrown away.
_base_ = [
    "../_base_/models/blip2_tiny.py",
    "../_base_/datasets/scenes_caption.py",
    "../_base_/schedules/scenes_pretrain.py",
]

model = dict(
    type="VisionCaptioner",
    vision_backbone={{_base_.vision_backbone}},
    tokenizer={{_base_.tokenizer}},
    vocab_size=528,
    decoder_layers=2,
    decoder_heads=6,
    captions_per_picture=3,
)

# Sentences that give every object its place teach the encoder where things are.
train_dataloader = dict(dataset=dict(ann_file="annotations/train_places.json"))

train_cfg = dict(max_iters=3200)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=400),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=400, end=3200, eta_min=2e-5),
]
