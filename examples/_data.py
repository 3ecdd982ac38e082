"""Images and labels for the examples, from the first place that has them."""

import dataclasses
import glob
import io
import os
import socket
import sys
import threading
import types
import urllib.parse
import urllib.request

import numpy as np

# Where tensorflow-datasets downloads from: a connection there decides whether a download is tried.
HOSTS = {
    "cifar10": ("www.cs.toronto.edu", 443),
    "mnist": ("storage.googleapis.com", 443),
    "fashion_mnist": ("fashion-mnist.s3-website.eu-central-1.amazonaws.com", 80),
}
DATASETS = (*HOSTS, "digits")
STATISTICS = {"cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))}


class Unavailable(Exception):
    """The data cannot be had; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Data:
    """Images uint8 `[N, height, width, channels]` and labels int32 `[N]`, and where they are from."""

    name: str
    source: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.x_train.shape[1:]))
        train, test = len(self.x_train), len(self.x_test)
        return f"{self.name} ({self.source}): {train} training, {test} test images of {shape}"

    @property
    def classes(self) -> int:
        return int(self.y_train.max()) + 1

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each channel, in pixels of [0, 1], that the networks normalise by."""
        channels = self.x_train.shape[-1]
        return STATISTICS.get(self.name, ((0.0,) * channels, (1.0,) * channels))


def load(name: str, data_dir: str | None = None) -> Data:
    """The data set `name`, from `data_dir` (a TFDS folder or an npz file), TFDS's folder or its download.

    Raises:
      Unavailable: it cannot be had.
    """
    if data_dir and data_dir.endswith(".npz"):
        return _from_npz(name, data_dir)
    return digits() if name == "digits" else _from_tfds(name, data_dir)


def digits() -> Data:
    """scikit-learn's 1,797 real handwritten digits of 8 x 8 pixels; they come with the package."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x = np.round(x.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    parts = train_test_split(x, y.astype(np.int32), test_size=360, random_state=0, stratify=y)
    x_train, x_test, y_train, y_test = parts
    return Data("digits", "scikit-learn", x_train, y_train, x_test, y_test)


def _from_npz(name: str, path: str) -> Data:
    try:
        with np.load(path) as arrays:
            x_train, y_train, x_test, y_test = (
                arrays[key] for key in ("x_train", "y_train", "x_test", "y_test")
            )
    except (OSError, KeyError, ValueError) as error:
        raise Unavailable(
            f"{path}: {error}. --data-dir takes an npz file with x_train, y_train, x_test, y_test"
        ) from error
    labels = (np.asarray(y, np.int32).reshape(-1) for y in (y_train, y_test))
    y_train, y_test = labels
    return Data(name, "npz file", _pixels(x_train), y_train, _pixels(x_test), y_test)


def _pixels(images: np.ndarray) -> np.ndarray:
    """uint8 `[N, h, w, c]`; floats are taken to be in [0, 1]."""
    if images.dtype != np.uint8:
        if not (
            np.issubdtype(images.dtype, np.floating) and 0 <= images.min() <= images.max() <= 1
        ):
            raise Unavailable("images must be uint8, or floats in [0, 1]")
        images = np.round(images * 255).astype(np.uint8)
    return images if images.ndim == 4 else images[..., None]


def _from_tfds(name: str, data_dir: str | None) -> Data:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise Unavailable(
            f"{error}; pip install 'jaxbound[examples]', or --data-dir FILE.npz"
        ) from error
    root = os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"))
    prepared = sorted(glob.glob(os.path.join(glob.escape(root), name, "*", "*.array_record*")))
    builder = (
        tfds.builder_from_directory(os.path.dirname(prepared[-1]))
        if prepared
        else _download(tfds, name, root)
    )
    try:
        parts = [array for split in ("train", "test") for array in _read(tfds, builder, split)]
    except ImportError as error:  # array_record, Pillow
        raise Unavailable(f"{error}; pip install 'jaxbound[examples]'") from error
    return Data(name, "tensorflow-datasets", *parts)


def _download(tfds, name: str, root: str):
    """Downloads and prepares `name`, with TensorFlow or without."""
    if not connected(*HOSTS[name]):
        raise Unavailable(
            f"{name} is not in {root}, and there is no connection to {HOSTS[name][0]}; "
            "give --data-dir: a TFDS folder in array_record format, or an npz file with x_train, "
            "y_train, x_test, y_test"
        )
    try:
        builder = tfds.builder(name, data_dir=root, file_format="array_record")
        if not _has_tensorflow():  # the builders only use it to open files
            gfile = types.SimpleNamespace(GFile=open)
            sys.modules[type(builder).__module__].tf = types.SimpleNamespace(
                io=types.SimpleNamespace(gfile=gfile)
            )
        builder.download_and_prepare()
    except Exception as error:  # whatever a server, a proxy or a disk may do
        raise Unavailable(f"the download of {name} failed: {error!r}") from error
    return builder


def _has_tensorflow() -> bool:
    try:
        import tensorflow  # noqa: F401
    except ImportError:
        return False
    return True


def _read(tfds, builder, split: str) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    decoders = {"image": tfds.decode.SkipDecoding()}  # PIL itself is several times faster
    examples = list(builder.as_data_source(split, decoders=decoders))
    images = np.stack([np.asarray(Image.open(io.BytesIO(e["image"]))) for e in examples])
    return _pixels(images), np.array([e["label"] for e in examples], np.int32)


def connected(host: str, port: int, seconds: float = 3.0) -> bool:
    """Whether a connection (to the proxy, where one is set) opens within a few seconds."""
    proxy = urllib.request.getproxies().get("https" if port == 443 else "http")
    if proxy:
        url = urllib.parse.urlsplit(proxy)
        host, port = url.hostname or host, url.port or 80
    opened = threading.Event()

    def probe():
        try:
            socket.create_connection((host, port), timeout=seconds).close()
            opened.set()
        except OSError:
            pass

    # A thread, because looking up a name cannot be given a timeout.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(seconds)
    return opened.is_set()
