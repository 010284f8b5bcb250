"""The tutorial's predictor, written plainly after its description: Flask's own server, one request at a time, PyTorch.

Its network has new weights: what it reads is of no use, how long it takes is the same. `python -m pipeline bench
--serving` compares with it, and nothing else uses it.
"""

import argparse

import cv2
import numpy as np
import torch
from flask import Flask, request

from pipeline import reference


def create_app() -> Flask:
    """Makes the application."""
    app = Flask(__name__)
    network = reference.ReferenceNetwork().eval()

    @app.post("/predict")
    def predict() -> str:
        picture = cv2.imdecode(np.frombuffer(request.files["file"].read(), np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        width = round(picture.shape[1] * reference.HEIGHT / picture.shape[0])
        line = cv2.resize(picture, (width, reference.HEIGHT)) / 255
        with torch.no_grad():
            log_probs = network(torch.from_numpy(line).permute(2, 0, 1)[None].float())
        return reference.decode(log_probs)[0]

    @app.get("/healthz")
    def alive() -> str:
        return "alive"

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    create_app().run("127.0.0.1", parser.parse_args().port, threaded=False)
