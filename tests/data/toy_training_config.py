# 4 epochs of 5 batches, a checkpoint every 3 iterations. The folder of this file has to be on sys.path.
custom_imports = {"imports": ["toy_training"]}

model = {"type": "ToyNet"}
train_dataloader = {
    "batch_size": 4,
    "num_workers": 0,
    "drop_last": True,
    "dataset": {"type": "ToyData"},
    "sampler": {"type": "DefaultSampler", "shuffle": True},
}
val_dataloader = {"batch_size": 4, "num_workers": 0, "dataset": {"type": "ToyData", "noise": False}}
test_dataloader = val_dataloader
train_cfg = {"by_epoch": True, "max_epochs": 4}
val_cfg = {}
test_cfg = {}
val_evaluator = {"type": "ToyMetric"}
test_evaluator = val_evaluator
optim_wrapper = {"optimizer": {"type": "AdamW", "lr": 0.05}}
param_scheduler = [
    {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 6},
    {"type": "CosineAnnealingLR", "by_epoch": False, "begin": 6, "end": 20, "eta_min": 0.001},
]
default_hooks = {
    "checkpoint": {"type": "CheckpointHook", "interval": 3, "by_epoch": False},
    "logger": {"type": "LoggerHook", "interval": 5},
}
randomness = {"seed": 3}
