# What BLIP-2 was pre-trained on (arXiv 2301.12597, section 3.4): 129 million pictures with captions. Which of these
# collections are used says the list in train_dataloader; a config of your own with the ones you have:
#
#     _base_ = ["blip2::blip2/blip2_pretrain-stage1_16xb105.py"]
#     train_dataloader = dict(dataset=dict(datasets=[_base_.coco_dataset, _base_.visual_genome_dataset]))
#
# A table has a row for each picture and caption, or a list of captions, of which a step draws one. The paper's captions
# of the web collections are its own (CapFilt: two of ten generated ones and the picture's text, ranked by CLIP).
data_preprocessor = dict(
    type="MultiModalDataPreprocessor",
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321579, 70.32316305],
    to_rgb=True,
)

# No image_id: pictures of two collections may have one number, and it would make them one picture for the contrast.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="RandomResizedCrop",
        scale=224,
        crop_ratio_range=(0.5, 1.0),
        interpolation="bicubic",
        backend="pillow",
    ),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="CleanCaption", keys="gt_caption"),
    dict(type="PackInputs", algorithm_keys=["gt_caption"], meta_keys=["img_path"]),
]

coco_dataset = dict(
    type="COCOCaption",
    data_root="data/coco",
    ann_file="annotations/coco_karpathy_train.json",
    pipeline=train_pipeline,
)
visual_genome_dataset = dict(
    type="ImageTextDataset",
    data_root="data/visual_genome",
    ann_file="annotations/vg_caption.json",
    pipeline=train_pipeline,
)
# Pictures of the web: some can no longer be read, and are left out (`skip_bad_images`); looking for millions of files
# before the first step takes too long (`check_images`).
cc3m_dataset = dict(
    type="ImageTextDataset",
    data_root="data/cc3m",
    ann_file="captions.jsonl",
    pipeline=train_pipeline,
    check_images=False,
    skip_bad_images=True,
)
cc12m_dataset = dict(
    type="ImageTextDataset",
    data_root="data/cc12m",
    ann_file="captions.jsonl",
    pipeline=train_pipeline,
    check_images=False,
    skip_bad_images=True,
)
sbu_dataset = dict(
    type="ImageTextDataset",
    data_root="data/sbu",
    ann_file="captions.jsonl",
    pipeline=train_pipeline,
    check_images=False,
    skip_bad_images=True,
)
laion_dataset = dict(  # 115 million pictures of LAION-400M
    type="ImageTextDataset",
    data_root="data/laion400m",
    ann_file="captions.jsonl",
    pipeline=train_pipeline,
    check_images=False,
    skip_bad_images=True,
)

train_dataloader = dict(
    batch_size=105,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    collate_fn=dict(type="default_collate"),
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="ConcatDataset",
        datasets=[
            coco_dataset,
            visual_genome_dataset,
            cc3m_dataset,
            cc12m_dataset,
            sbu_dataset,
            laion_dataset,
        ],
    ),
)
