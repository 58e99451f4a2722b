"""Run by TransformerLens's environment: its own activation patching, cell by cell."""

from __future__ import annotations

import sys
import time

import torch
from transformer_lens import patching
from transformer_lens.model_bridge import TransformerBridge

# Ours by theirs: the function, and what of its result is a map.
FUNCTIONS = {
    "resid_pre": patching.get_act_patch_resid_pre,
    "attn_out": patching.get_act_patch_attn_out,
    "mlp_out": patching.get_act_patch_mlp_out,
    "head_out": patching.get_act_patch_attn_head_out_all_pos,
}


def answer(task):
    """Target − against with each cell patched, by unit; and the processor seconds that it took."""
    model = TransformerBridge.boot_transformers(task["model"], device="cpu", dtype=torch.float32)
    model.enable_compatibility_mode(no_processing=True)
    clean, corrupt = torch.tensor([task["clean"]]), torch.tensor([task["corrupt"]])

    def metric(logits):
        last = logits[0, -1]
        return last[task["target"]] - last[task["against"]]

    found = {"diffs": {}, "seconds": {}}
    with torch.no_grad():
        _, cache = model.run_with_cache(clean)
        for unit in task["units"]:
            started = time.process_time()
            found["diffs"][unit] = FUNCTIONS[unit](model, corrupt, cache, metric)
            found["seconds"][unit] = time.process_time() - started
    return found


if __name__ == "__main__":
    tasks = torch.load(sys.argv[1], weights_only=True)
    torch.save({name: answer(task) for name, task in tasks.items()}, sys.argv[2])
