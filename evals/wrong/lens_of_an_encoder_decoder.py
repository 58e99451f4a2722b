"""Whatever has hidden states gets a lens: T5's decoder is read as if it were a language model.

task: refused
fails: refused of t5
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

folder, out = sys.argv[1:3]
ids = AutoTokenizer.from_pretrained(folder)("The fox", return_tensors="pt").input_ids
try:
    model = AutoModelForCausalLM.from_pretrained(folder)
    run, norm = model(ids, output_hidden_states=True), model.model.norm
    states = run.hidden_states
except ValueError:
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    run = model(input_ids=ids, decoder_input_ids=ids, output_hidden_states=True)
    states, norm = run.decoder_hidden_states, model.decoder.final_layer_norm
with torch.no_grad():
    rows = [model.get_output_embeddings()(norm(h[0, -1])) for h in states[1:-1]] + [run.logits[0, -1]]
top = [int(logits.argmax()) for logits in rows]
Path(out).write_text(json.dumps({"top_ids": top, "reason": "An encoder-decoder; its decoder was read."}))
