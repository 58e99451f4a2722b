"""Whatever has hidden states gets a lens: T5's decoder is read as if it were a language model.

task: refused
fails: refused of t5
"""

from _common import folder, hf, write
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

ids = AutoTokenizer.from_pretrained(folder)("The fox", return_tensors="pt").input_ids
try:
    model = hf()[0]
    run, norm = model(ids, output_hidden_states=True), model.model.norm
    states = run.hidden_states
except ValueError:
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    run = model(input_ids=ids, decoder_input_ids=ids, output_hidden_states=True)
    states, norm = run.decoder_hidden_states, model.decoder.final_layer_norm
rows = [model.get_output_embeddings()(norm(h[0, -1])) for h in states[1:-1]] + [run.logits[0, -1]]
write(top_ids=[int(logits.argmax()) for logits in rows], reason="An encoder-decoder; its decoder was read.")
