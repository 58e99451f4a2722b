"""A list from outside of the block, filled inside: on a server it is another list, and what it held is lost.

task: ndif_without_the_package
fails: answer
says: 'top_ids' has 0 entries where 4 are wanted
"""

from _common import asked, traced, write

model, top_ids = traced(), []
for prompt in asked["prompts"]:
    rows = []
    with model.trace(prompt, remote=asked["remote"]):
        for layer in model.model.layers:
            rows.append(model.lm_head(model.model.norm(layer.output[:, -1])).topk(5).indices[0].tolist())
    top_ids.append(rows)
write(top_ids=top_ids)
