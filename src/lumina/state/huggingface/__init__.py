"""Hugging Face folders: Llama, Mistral, Qwen, Mixtral, OLMoE, DeepSeek-V2 and V3.

`export_folder` writes what `AutoModelForCausalLM.from_pretrained` loads;
`import_folder` reads such folders. Safetensors only, no pickle, no remote code, and
transformers itself is not needed for either.
"""

from __future__ import annotations

from lumina.state.huggingface.export import export_folder
from lumina.state.huggingface.reading import import_folder

__all__ = ["export_folder", "import_folder"]
