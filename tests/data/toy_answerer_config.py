# The folder of this file has to be on sys.path.
custom_imports = {"imports": ["toy_answerer"]}

model = {"type": "ToyAnswerer"}
data_preprocessor = {"type": "MultiModalDataPreprocessor", "mean": [0, 0, 0], "std": [1, 1, 1], "to_rgb": True}

test_pipeline = [
    {"type": "LoadImageFromFile"},
    {"type": "Resize", "scale": (8, 8), "interpolation": "bicubic", "backend": "pillow"},
    {"type": "PackInputs", "algorithm_keys": ["question"], "meta_keys": ["img_path", "ori_shape"]},
]
test_dataloader = {"batch_size": 1, "dataset": {"type": "ImageTextDataset", "pipeline": test_pipeline}}
