"""A figure whose script is fetched when the page is opened.

task: offline_report
fails: offline
"""

import lens_recipes as lr
from _common import asked, folder, write

result = lr.logit_lens(lr.load(folder), asked["prompt"], targets=asked["word"])
lr.heatmap(result).write_html(asked["report"], include_plotlyjs="cdn")
write(logprobs=result.target_logprobs[:, -1, 0])
