"""Send a picture to a model that ``cpsl-export --triton`` wrote and Triton Inference Server serves.

    pip install 'tritonclient[grpc]' opencv-python-headless click
    python docs/send_to_triton.py street.jpg

Nothing of this project is needed: size, colour order, class names and palette come with the served model.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import cv2
import numpy as np
import tritonclient.grpc as triton


@click.command()
@click.argument("picture", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--server", default="localhost:8001", show_default=True, help="Address of its gRPC port.")
@click.option("--model", default="segmenter", show_default=True)
@click.option("-o", "--output", default="labels.png", show_default=True, help="The labels in their colours.")
def main(picture: Path, server: str, model: str, output: str) -> None:
    """Segment PICTURE on a server: prints the share of every class, writes the labels in their colours."""
    client = triton.InferenceServerClient(server)
    config = client.get_model_config(model).config
    parameters = config.parameters
    spec = json.loads(parameters["cpsl_deploy"].string_value)
    if "labels" not in [output.name for output in config.output]:
        raise click.UsageError(f"{model} gives no labels; export it with --outputs labels")
    # Sides that are free in the file are best near the size at which the network saw whole images.
    sides = zip(config.input[0].dims[-3:-1], spec["size"], strict=True)
    height, width = (side if side > 0 else best for side, best in sides)

    frame = cv2.imread(str(picture))  # BGR
    if frame is None:
        raise click.UsageError(f"{picture} is no readable picture")
    frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    if parameters["colour_order"].string_value == "RGB":
        frame = np.ascontiguousarray(frame[..., ::-1])
    image = triton.InferInput("image", [1, height, width, 3], "UINT8")
    image.set_data_from_numpy(frame[None])
    labels = client.infer(model, [image]).as_numpy("labels")[0]

    for value in np.unique(labels):
        click.echo(f"{spec['class_names'][value]:>14} {np.mean(labels == value):6.1%}")
    colours = np.array(spec["palette"], np.uint8)[labels]  # RGB
    cv2.imwrite(output, np.ascontiguousarray(colours[..., ::-1]))


if __name__ == "__main__":
    main()
