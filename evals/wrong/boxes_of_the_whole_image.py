"""The grid is laid over the whole image, but LLaVA's processor cuts its ends off.

task: image_lens
fails: boxes
"""

import lens_recipes as lr
from _common import asked, folder, write
from PIL import Image

parts = [{"type": "image", "image": asked["image"]}, {"type": "text", "text": asked["question"]}]
result = lr.logit_lens(lr.load(folder), [{"role": "user", "content": parts}], positions="image")
width, height = Image.open(asked["image"]).size
across, down = width / 4, height / 4
boxes = [[c * across, r * down, (c + 1) * across, (r + 1) * down] for r in range(4) for c in range(4)]
write(top_ids=result.top_ids, top_logprobs=result.top_logprobs, boxes=boxes)
