"""What the command line of `generate` says of the settings, and the defaults of this command."""

from __future__ import annotations

from dataclasses import dataclass

# Used where neither the command line nor the checkpoint's generation_config says anything.
SAMPLER_DEFAULTS = {"temperature": 0.7, "top_p": 0.95, "top_k": 5}
MAX_LENGTH = 1000  # tokens, those of the prompt included


@dataclass(frozen=True)
class GivenSettings:
    """The settings as they were given, None where they were not."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    greedy: bool = False
    seed: int | None = None
    stop: list[str] | None = None
    max_length: int | None = None
    max_new_tokens: int | None = None

    @property
    def sampler(self) -> dict[str, float]:
        """Return the settings of the sampler that were given."""
        settings = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return {setting: value for setting, value in settings.items() if value is not None}


def option_name(setting: str) -> str:
    """Return the command line's name of a setting, without its dashes: "top-p"."""
    return setting.replace("_", "-")
