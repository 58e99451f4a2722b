"""Each call sends the job and waits: nothing is handed over, and it is computed twice.

task: ndif_job
fails: handed_over, sent_once
"""

import lens_recipes as lr
from _common import asked, folder, write

result = lr.logit_lens(lr.load(folder, remote=asked["server"]), asked["prompts"], positions=-1)
write(top_ids=result.top_ids[..., 0].T)
