# VQAv2 as LAVIS's config for OPT has it, with the length penalty of its code.
_base_ = ["blip2-opt6.7b_vqa_paper.py"]

model = dict(prompt="Question: {} Short answer:", length_penalty=0.0, count_lengths="start")
