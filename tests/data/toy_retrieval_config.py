# Retrieval in a gallery of 7 pictures, in batches of 2. The folder of this file has to be on sys.path.
custom_imports = {"imports": ["toy_retrieval"]}

model = {"type": "ToyRetrieval"}
train_dataloader = {
    "batch_size": 2,
    "num_workers": 0,
    "dataset": {"type": "ToyGallery"},
    "sampler": {"type": "DefaultSampler", "shuffle": True},
}
val_dataloader = {"batch_size": 2, "num_workers": 0, "dataset": {"type": "ToyGallery"}}
test_dataloader = val_dataloader
train_cfg = {"by_epoch": True, "max_epochs": 1}
val_cfg = {"type": "RetrievalValLoop"}
test_cfg = {"type": "RetrievalTestLoop"}
val_evaluator = {"type": "RetrievalRecall", "topk": (1, 2, 5)}
test_evaluator = val_evaluator
optim_wrapper = {"optimizer": {"type": "SGD", "lr": 0.0}}
default_hooks = {"checkpoint": {"type": "CheckpointHook", "save_best": "mean/retrieval/Recall@1"}}
randomness = {"seed": 3}
