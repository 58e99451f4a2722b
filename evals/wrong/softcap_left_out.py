"""The sum of the contributions given as what the model says: the cap is forgotten.

task: softcap_attribution
fails: capped_logit
"""

from _common import attribution, write

who = attribution(unit="layer")
write(layers=who.by_layer()[1], logit=who.total.item(), capped_logit=who.total.item())
