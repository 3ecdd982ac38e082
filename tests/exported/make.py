"""Makes the networks of this folder: trained on scikit-learn's digits, exported as other libraries do by default.

    pip install torch onnxscript keras skl2onnx && python tests/exported/make.py

Each has inputs and outputs of its own library beside it, in `outputs.npz`.
"""

import os

os.environ["KERAS_BACKEND"] = "torch"

from pathlib import Path

import keras
import numpy as np
import skl2onnx
import torch
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPRegressor

FOLDER = Path(__file__).parent


def pytorch(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(1, 4, 3, stride=2, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU()
    dense = torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10)
    net = torch.nn.Sequential(*layers, torch.nn.Flatten(), *dense)
    x, y = torch.tensor(images.reshape(-1, 1, 8, 8)), torch.tensor(labels)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(200):
        loss = torch.nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    torch.onnx.export(net, (x[:1],), str(FOLDER / "pytorch.onnx"))
    return torch.cat([net(x[i : i + 1]) for i in range(4)]).detach().numpy()


def from_keras(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Input((8, 8, 1)),
        keras.layers.Conv2D(4, 3, strides=2, padding="same", activation="elu"),
        keras.layers.MaxPooling2D(2),
        keras.layers.Flatten(),
        keras.layers.Dense(16, activation="sigmoid"),
        keras.layers.Dense(10),
    ]
    net = keras.Sequential(layers)
    net.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = images.reshape(-1, 8, 8, 1)
    net.fit(x, labels, epochs=20, verbose=0)
    net.export(str(FOLDER / "keras.onnx"), format="onnx", verbose=False)
    return net.predict(x[:4], verbose=0)


def scikit_learn(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    x = images.reshape(-1, 64)
    net = MLPRegressor(hidden_layer_sizes=(16, 16), activation="tanh", random_state=0, max_iter=300)
    net.fit(x, np.eye(10)[labels])
    model = skl2onnx.to_onnx(net, x[:1])
    (FOLDER / "scikit_learn.onnx").write_bytes(model.SerializeToString())
    return net.predict(x[:4])


def main() -> None:
    data, labels = load_digits(return_X_y=True)
    images = (data / 16).astype(np.float32)
    made = {"pytorch": pytorch, "keras": from_keras, "scikit_learn": scikit_learn}
    found = {name: make(images, labels).astype(np.float32) for name, make in made.items()}
    np.savez(FOLDER / "outputs.npz", images=images[:4], **found)


if __name__ == "__main__":
    main()
