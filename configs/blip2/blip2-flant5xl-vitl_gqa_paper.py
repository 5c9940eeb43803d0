# GQA (balanced test-dev) by the paper's protocol, which is LAVIS's too.
_base_ = [
    "../_base_/models/blip2_flant5xl_vitl.py",
    "../_base_/datasets/gqa_lavis.py",
    "../_base_/schedules/finetune_5e.py",
    "../_base_/default_runtime.py",
]

model = dict(
    type="Blip2VQA",
    prompt="Question: {} Short answer:",
    max_txt_len=10,
    length_penalty=-1.0,
    count_lengths="prompt",
)
