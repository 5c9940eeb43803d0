# NoCaps, validation set: pictures of Open Images in data/nocaps/images, annotations in data/nocaps/annotations.
# Nothing is trained on NoCaps: its rule is COCO's captions, which stay in train_dataloader.
_base_ = ["coco_caption.py"]

val_dataloader = dict(
    dataset=dict(
        type="NoCaps",
        data_root="data/nocaps",
        data_prefix="images",
        ann_file="annotations/nocaps_val_4500_captions.json",
    ),
)
# The second writes what the EvalAI server scores. Without the captions, with nocaps_val_image_info.json, leave the
# first out.
val_evaluator = [
    dict(
        type="NocapsCaption",
        ann_file="data/nocaps/annotations/nocaps_val_4500_captions.json",
    ),
    dict(
        type="NocapsSave",
        save_dir="work_dirs/nocaps",
        file_name="nocaps_val.json",
        ann_file="data/nocaps/annotations/nocaps_val_4500_captions.json",
    ),
]

# For the test set, whose captions are with the server, set in test_dataloader.dataset
# ann_file="annotations/nocaps_test_image_info.json", and test_evaluator=dict(type="NocapsSave", …) alone.
test_dataloader = val_dataloader
test_evaluator = val_evaluator
