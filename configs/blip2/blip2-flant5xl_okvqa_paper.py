# OK-VQA (val2014) by the protocol of the paper and LAVIS: 224 px, 5 beams, length penalty -1, answers by their lemmas.
_base_ = [
    "../_base_/models/blip2_flant5xl.py",
    "../_base_/datasets/coco_okvqa_lavis.py",
    "../_base_/schedules/finetune_5e.py",
    "../_base_/default_runtime.py",
]

model = dict(
    type="Blip2VQA",
    vision_backbone=dict(img_size=224),
    prompt="Question: {} Short answer:",
    max_txt_len=10,
    length_penalty=-1.0,
    count_lengths="prompt",
)
