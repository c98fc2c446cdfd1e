"""The studio imports these modules, so they must not bring the heavy ones along."""

import subprocess
import sys

MODULES = ["buckets", "captions", "health", "images", "journal"]


def test_importing_brings_no_heavy_module():
    imports = ", ".join(f"trainer.dataset.{name}" for name in MODULES) + ", trainer.taggers, trainer.tag"
    heavy = "{'torch', 'numpy', 'onnxruntime', 'huggingface_hub', 'streamlit', 'PIL.ImageCms'}"
    code = f"import sys, {imports}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
