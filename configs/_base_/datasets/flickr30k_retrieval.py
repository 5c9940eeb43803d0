# Flickr30k for retrieval in Karpathy's split: pictures in data/flickr30k/images, annotations in
# data/flickr30k/annotations.
_base_ = ["coco_retrieval.py"]

flickr30k_dataset = dict(
    type="Flickr30kRetrieval",
    data_root="data/flickr30k",
    data_prefix="images",
    ann_file="annotations/dataset_flickr30k.json",
)

train_dataloader = dict(dataset=dict(split="train", **flickr30k_dataset))
val_dataloader = dict(dataset=dict(split="val", **flickr30k_dataset))
test_dataloader = dict(dataset=dict(split="test", **flickr30k_dataset))
