_base_ = [
    "../_base_/models/blip2_opt2.7b.py",
    "../_base_/datasets/coco_okvqa.py",
    "../_base_/schedules/finetune_5e.py",
    "../_base_/default_runtime.py",
]

model = dict(type="Blip2VQA", prompt="Question: {} Answer:", max_txt_len=10)
