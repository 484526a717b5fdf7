"""Draws how many tokens each head keeps in a run of `memoryd train scratch`, and what they cost.

memoryd train scratch bench/kept_tokens/run.yaml --out RUN
python bench/kept_tokens.py bench/kept_tokens/run.yaml RUN --out docs/results/kept-tokens.svg
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "memoryd"

from matplotlib import pyplot as plt  # noqa: E402  the backend is chosen first

from lalte.config import LTEConfig  # noqa: E402
from lalte.train.config import read_train_config  # noqa: E402
from lalte.train.trainer import METRICS_FILE, model_config_of  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="the run's YAML file")
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--out", type=Path, required=True, help="the picture, an SVG file")
    told = parser.parse_args()
    config = read_train_config(told.config)
    model = model_config_of(config, told.config.parent)
    lines = (told.run / METRICS_FILE).read_text("utf-8").splitlines()
    steps = [json.loads(line) for line in lines]
    at = [step["step"] for step in steps]
    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 5), sharex=True)
    places = (index for index, layer in enumerate(model.layers) if isinstance(layer, LTEConfig))
    for row, index in enumerate(places):
        layer = model.layers[index]
        assert isinstance(layer, LTEConfig)
        for head, budget in enumerate(layer.budgets):
            (line,) = above.plot(
                at,
                [step["kept"][row][head] for step in steps],
                label=f"layer {index}, head {head}: B = {budget}",
            )
            above.axhspan(
                config.penalty.tolerance * budget, budget, color=line.get_color(), alpha=0.2, lw=0
            )
            below.plot(at, [step["strength"][row][head] for step in steps])
    above.set(ylabel="tokens kept", ylim=(0, None))
    above.legend()
    below.set(xlabel="step", ylabel="strength of the penalty", ylim=(0, None))
    figure.savefig(told.out, metadata={"Date": None}, bbox_inches="tight")


if __name__ == "__main__":
    main()
