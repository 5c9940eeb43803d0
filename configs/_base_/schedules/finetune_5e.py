# Fine-tuning as in the BLIP-2 paper (appendix, tables of hyper-parameters): five epochs, a warm-up of 1,000 steps, a
# cosine to nothing. How many pictures a step takes is the leaf's matter.
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
