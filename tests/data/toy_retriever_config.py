# The folder of this file has to be on sys.path.
custom_imports = {"imports": ["toy_retriever"]}

model = {"type": "ToyRetriever"}
data_preprocessor = {"type": "MultiModalDataPreprocessor", "mean": [0, 0, 0], "std": [1, 1, 1], "to_rgb": True}

test_pipeline = [
    {"type": "LoadImageFromFile"},
    {"type": "Resize", "scale": (8, 8), "interpolation": "nearest", "backend": "pillow"},
    {"type": "CleanCaption", "keys": "text"},
    {"type": "PackInputs", "algorithm_keys": ["text"], "meta_keys": ["img_path", "ori_shape"]},
]
test_dataloader = {"batch_size": 1, "dataset": {"type": "ImageTextDataset", "pipeline": test_pipeline}}
