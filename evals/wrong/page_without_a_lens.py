"""A page that names the prompt, and holds nothing of the lens.

task: offline_report
fails: layers
"""

from pathlib import Path

from _common import asked, lens, write

Path(asked["report"]).write_text(f"<html><script></script>{asked['prompt']}</html>")
write(logprobs=lens(targets=[asked["word"]]).target_logprobs[:, 0, 0])
