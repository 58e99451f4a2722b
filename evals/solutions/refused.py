import json
import sys
from pathlib import Path

import lens_recipes as lr

try:
    answer = {"top_ids": lr.logit_lens(lr.load(sys.argv[1]), "The fox", positions=-1).top_ids[:, 0, 0].tolist()}
except lr.LensError as error:
    answer = {"reason": str(error)}
Path(sys.argv[2]).write_text(json.dumps(answer))
