# Fine-tuning on COCO captions as in the BLIP-2 paper (appendix, table of hyper-parameters); 256 pictures a step.
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-5, betas=(0.9, 0.999), weight_decay=0.05),
)

param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=1000),
    dict(type="CosineAnnealingLR", eta_min=0, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
]

train_cfg = dict(by_epoch=True, max_epochs=5)
val_cfg = dict()
test_cfg = dict()
