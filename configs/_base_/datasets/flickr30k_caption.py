# Flickr30k's captions in Karpathy's split: pictures in data/flickr30k/images, annotations in
# data/flickr30k/annotations; tools/dataset_converters/karpathy.py writes the flickr30k_…_gt.json.
_base_ = ["coco_caption.py"]

flickr30k_dataset = dict(
    type="Flickr30kCaption",
    data_root="data/flickr30k",
    data_prefix="images",
    ann_file="annotations/dataset_flickr30k.json",
)

train_dataloader = dict(dataset=dict(split="train", **flickr30k_dataset))
val_dataloader = dict(dataset=dict(split="val", sample_per="image", **flickr30k_dataset))
val_evaluator = dict(ann_file="data/flickr30k/annotations/flickr30k_val_gt.json")
test_dataloader = dict(dataset=dict(split="test", sample_per="image", **flickr30k_dataset))
test_evaluator = dict(ann_file="data/flickr30k/annotations/flickr30k_test_gt.json")
