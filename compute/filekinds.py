"""Which files of a model are weights, which could run code, and how many a model has at most. Pure."""

from __future__ import annotations

import re

MAX_FILES = 1024  # entries in one folder
MAX_WEIGHTS = 128 * 2**30  # bytes of one file
INDEX_SUFFIX = ".safetensors.index.json"
WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)(-\d{5}-of-\d{5})?\.safetensors")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".msgpack", ".h5", ".npy", ".npz")
CODE = (".py", ".pyc", ".so", ".dylib", ".dll")
REMOTE_KEYS = ("auto_map", "custom_pipelines", "custom_pipeline", "trust_remote_code", "custom_generate")
ADAPTERS = frozenset({"adapter_config.json"})  # names another model, which a library would go and load
VOCABULARIES = frozenset({"tokenizer.json", "vocab.json", "merges.txt", "vocab.txt"})
