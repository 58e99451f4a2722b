"""The cap put on each contribution: it is no sum any more. Only the whole logit is capped.

task: softcap_attribution
fails: layers
"""

import numpy as np
from _common import attribution, hf, write

who, cap = attribution(unit="layer"), hf()[0].config.final_logit_softcapping
layers = cap * np.tanh(who.by_layer()[1] / cap)
write(layers=layers, logit=who.logit.item(), capped_logit=who.capped_logit.item())
