"""The demo's recipe with some fields changed, measured on validation cells: how the recipe was chosen.

    python benchmarks/demo_variants.py --set optimisation.optimizer=adamw --set optimisation.steps=400 --seed 0

Prints the losses on validation examples, annotation accuracy with one and with four views, and for each sampling
setting the generated cells beside independent resampling. Test cells are not looked at.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import yaml

from c2s.analysis.annotate import label_probabilities
from c2s.analysis.generate import generate_cells
from c2s.decoding.sampling import Sampling
from c2s.evaluate.generation import Space, independent_cells, whole_metrics
from c2s.metrics import nearest_distance
from c2s.studies.demo import demo_recipe
from c2s.studies.train import TrainRecipe, load_data, train_model


def changed(recipe: TrainRecipe, settings: list[str]) -> TrainRecipe:
    content: dict[str, Any] = recipe.model_dump()
    content["temperatures"] = [1.0]
    for setting in settings:
        path, _, value = setting.partition("=")
        *parents, last = path.split(".")
        place = content
        for parent in parents:
            place = place[parent]
        place[last] = yaml.safe_load(value)
    return TrainRecipe.parse(content, "the changed recipe")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--sampling", default="1:1,1:0.98,0.95:0.98,0.9:0.98,0.9:1", help="temperature:top_p, …"
    )
    args = parser.parse_args()
    recipe = changed(demo_recipe(seed=args.seed), args.set)
    adata = load_data(recipe)
    trained = train_model(adata, recipe, "pancreas", device="cpu")
    model, cells = trained.model, trained.cells
    print(
        f"{args.set} seed {args.seed}: {model.n_parameters:,} parameters, {trained.log.seconds:.0f} s of training"
    )
    last = max(x["step"] for x in trained.log.losses)
    for x in trained.log.losses:
        if x["step"] == last:
            print(f"  loss of {x['task']} on {x['split']}: {x['loss']:.4f}")
    train, val = cells.rows("train"), cells.rows("val")
    labels = np.array(model.known("cell_type"))
    for views in (1, 4):
        found = label_probabilities(adata[val].copy(), model, labels.tolist(), views=views).argmax(
            1
        )
        print(f"  accuracy with {views} view(s): {np.mean(labels[found] == cells.labels[val]):.4f}")
    space = Space.fit(
        cells.ranked(train, recipe.top_k, recipe.seed), cells.inverse, seed=recipe.seed
    )
    real, seen = (
        space.embed(cells.ranked(rows, recipe.top_k, recipe.seed)) for rows in (val, train)
    )
    wanted = cells.labels[val]
    made = independent_cells(
        cells.counts[train],
        cells.vocabulary,
        cells.labels[train],
        wanted,
        recipe.top_k,
        recipe.seed,
    )
    report("independent", real, space.embed(made), seen)
    for pair in args.sampling.split(","):
        temperature, top_p = map(float, pair.split(":"))
        sampling = Sampling(temperature=temperature, top_p=top_p, seed=recipe.seed)
        made = generate_cells(
            model, wanted, cells.organism[val[0]], top_k=recipe.top_k, sampling=sampling
        )
        report(f"T {temperature:g}, top-p {top_p:g}", real, space.embed(made), seen)


def report(name: str, real: np.ndarray, made: np.ndarray, seen: np.ndarray) -> None:
    values = whole_metrics(real, made, 0)
    near = np.median(nearest_distance(made, seen))
    print(
        f"  {name:20}", ", ".join(f"{k} {v:.4f}" for k, v in values.items()), f"nearest {near:.3f}"
    )


if __name__ == "__main__":
    main()
