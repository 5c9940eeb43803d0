# Stage 2 of the pre-training (arXiv 2301.12597, section 3.4): 80,000 steps, for OPT of 1,920 pictures, and a cosine
# that ends at 5e-5. Everything else is as in stage 1.
_base_ = ["pretrain_stage1_250k.py"]

param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=2000),
    dict(type="CosineAnnealingLR", eta_min=5e-5, by_epoch=False, begin=2000, end=80000),
]

train_cfg = dict(max_iters=80000)
auto_scale_lr = dict(base_batch_size=1920)
