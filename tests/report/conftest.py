"""A `DemoResults` of INVENTED numbers, of the shape and size that the demo gives.

`python tests/report/conftest.py report.html` writes its report, to look at.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from c2s.report import DemoResults, render, write_report

TYPES = {
    "beta": (174, "INS IAPP HADH DLK1 G6PC2 RBP4 ERO1B PCSK1 TIMP2 ADCYAP1 SCGN CPE"),
    "alpha": (47, "GCG TTR TM4SF4 PCSK2 CHGB SCG5 GC CHGA CRYBA2 ALDH1A1 SCG2 PCSK1N"),
    "delta": (43, "SST RBP4 SEC11C AQP3 PCSK1 SCG5 HADH LEPR TTR CPE BCHE HHEX"),
    "endothelial": (26, "IGFBP7 SPARC COL4A1 PLVAP FLT1 SPARCL1 INSR VWF CD93 HSPG2 ESAM ENG"),
    "ductal": (24, "SPP1 KRT19 MMP7 TACSTD2 CLDN4 KRT8 KRT18 ANXA4 CD24 SERPING1 KRT7 LCN2"),
    "acinar": (22, "PRSS1 REG1A CTRB2 PRSS2 CPA1 CTRB1 REG1B CELA3A CPB1 PNLIP CLPS SPINK1"),
    "quiescent_stellate": (18, "SPARC COL4A1 RGS5 IGFBP7 CALD1 NDUFA4L2 TIMP3 ADIRF MGP ACTA2"),
    "gamma": (14, "PPY TTR SCG2 PCSK1N CHGA SCGN MEIS2 CPE SCG5 ID4 AQP3 CHGB"),
    "activated_stellate": (10, "COL1A1 COL1A2 COL3A1 SPARC LUM TIMP1 COL6A3 FN1 MMP2 BGN"),
    "macrophage": (3, "CD74 HLA-DRA TYROBP FCER1G LAPTM5 APOE C1QA C1QB CTSS PSAP LYZ"),
    "epsilon": (3, "GHRL TTR SCG5 SPINK1 DEFB1 HSPA2 PHGR1 CHGB CPE ALDH1A1 PCSK1N"),
    "mast": (2, "TPSAB1 TPSB2 CPA3 SRGN HPGDS KIT VIM GATA2 CD63 LTC4S HDC ANXA1"),
    "schwann": (1, "CRYAB NGFR SOX10 S100B PLP1 CDH19 SPARC VIM CNN3 GPM6B SCN7A"),
    "t_cell": (1, "CD3D TRAC IL32 CCL5 CD52 B2M HLA-B TMSB4X SRGN CXCR4 PTPRC CD7"),
}

NOTES = {
    "accuracy": {
        "description": "The share of held-out cells whose type is named correctly.",
        "best": "higher",
        "ideal": 1.0,
    },
    "macro_f1": {
        "description": "The mean over cell types of F1, so that rare types count like common ones.",
        "best": "higher",
        "ideal": 1.0,
    },
    "ece": {
        "description": "How far stated confidence is from the share of right answers, on average.",
        "best": "lower",
        "ideal": 0.0,
    },
    "scfid": {
        "description": "Fréchet distance between two Gaussians fitted to real and generated cells.",
        "best": "lower",
        "ideal": 0.0,
    },
    "energy_distance": {
        "description": "Mean distance between the groups beyond the mean distances within them.",
        "best": "lower",
        "ideal": 0.0,
    },
    "mmd2": {
        "description": "Squared maximum mean discrepancy with a Gaussian kernel, unbiased.",
        "best": "lower",
        "ideal": 0.0,
    },
    "wasserstein": {
        "description": "The least effort to move one group of cells onto the other.",
        "best": "lower",
        "ideal": 0.0,
    },
    "c2st": {
        "description": "How often a classifier tells generated from real cells; 0.5 is chance.",
        "best": "lower",
        "ideal": 0.5,
    },
    "nearest_training_distance": {
        "description": "Distance to the nearest training cell; copies have 0.",
        "best": "higher",
        "ideal": None,
    },
}


def _per_type() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    annotation, generation = [], []
    for i, (name, (n, _)) in enumerate(TYPES.items()):
        few = n < 10
        annotation.append(
            {
                "cell_type": name,
                "n": n,
                "precision": 0.99 - 0.012 * i,
                "recall": 1.0 if i % 3 else 0.985 - 0.01 * i,
                "f1": 0.99 - 0.008 * i,
            }
        )
        model, independent = (0.31 + 0.02 * i, 0.58) if few else (6.1 + 0.9 * i, 9.7)
        generation.append(
            {
                "cell_type": name,
                "n_real": n,
                "metric": "energy_distance" if few else "scfid",
                "model": model,
                "independent": independent,
                "ceiling": None if n < 2 else (0.08 if few else 3.2),
                "winner": "model" if model < independent else "independent",
            }
        )
    return annotation, generation


def demo_metrics() -> dict[str, Any]:
    """Invented content of metrics.json."""
    annotation, generation = _per_type()
    return {
        "dataset": {
            "name": "human pancreas, donor 1",
            "citation": "Baron M. et al. (2016), Cell Systems 3:346–360; GEO accession GSE84133.",
            "n_cells": 1937,
            "n_genes": 20125,
            "split": {"train": 1355, "val": 194, "test": 388},
        },
        "annotation": {
            "accuracy": 0.97423,
            "accuracy_interval": [0.9536, 0.9871],
            "macro_f1": 0.9312,
            "n_test": 388,
            "ece": 0.01234,
            "baselines": {
                "logistic_regression": {"accuracy": 0.98711, "macro_f1": 0.9478},
                "knn": {"accuracy": 0.96907, "macro_f1": 0.8876},
            },
            "per_type": annotation,
        },
        "generation": {
            "n_cells": 776,
            "top_k": 128,
            "valid_fraction": 1.0,
            "unique_fraction": 1.0,
            "exact_k_fraction": 1.0,
            "scfid": 14.27,
            "scfid_ceiling": 6.513,
            "energy_distance": 0.2143,
            "energy_distance_ceiling": -0.0021,
            "mmd2": 0.01178,
            "mmd2_ceiling": 0.00012,
            "wasserstein": 8.944,
            "wasserstein_ceiling": 7.731,
            "c2st": 0.7316,
            "c2st_ceiling": 0.5103,
            "nearest_training_distance": 6.881,
            "nearest_training_distance_real": 6.542,
            "baselines": {
                "independent": {
                    "scfid": 23.91,
                    "energy_distance": 0.6127,
                    "mmd2": 0.01174,
                    "wasserstein": 10.02,
                    "c2st": 0.9244,
                    "nearest_training_distance": 8.273,
                }
            },
            "per_type": generation,
            "round_trip": {"scfid": 31.47},
        },
        "inverse": {
            "slope": -0.7123,
            "intercept": 2.3141,
            "r2": 0.8123,
            "pearson": 0.9214,
            "spearman": 0.8842,
            "n_cells": 1024,
        },
        "training": {"parameters": 1103232, "steps": 1400, "seconds": 243.7},
        "seconds": 352.4,
        "seconds_by_stage": {
            "load": 1.2,
            "rank": 0.8,
            "train": 243.7,
            "annotate": 21.4,
            "generate": 58.2,
            "measure": 27.1,
        },
        "seed": 20160101,
        "versions": {"c2s-toolkit": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6"},
    }


def _confusion(rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    labels = list(TYPES)
    matrix = np.diag([n for n, _ in TYPES.values()])
    for _ in range(10):
        row, column = rng.integers(len(labels), size=2)
        if matrix[row, row] > 1 and row != column:
            matrix[row, row] -= 1
            matrix[row, column] += 1
    return labels, matrix


def _umap(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    places, types, generated = [], [], []
    for i, (name, (n, _)) in enumerate(TYPES.items()):
        centre = np.array([np.cos(2.4 * i), np.sin(2.4 * i)]) * (3 + 1.1 * i)
        for made in (False, True):
            shift = rng.normal(0, 0.35, 2) * made
            size = 2 * n
            places.append(centre + shift + rng.normal(0, 0.35 + 0.05 * np.sqrt(n), (size, 2)))
            types += [name] * size
            generated += [made] * size
    return np.concatenate(places), np.array(types), np.array(generated)


def _losses(rng: np.random.Generator) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for task, floor, start in (("annotation", 0.05, 2.6), ("generation", 4.9, 9.7)):
        for step in range(5, 1401, 5):
            trend = floor + (start - floor) * np.exp(-step / 260)
            noisy = trend * np.exp(rng.normal(0, 0.06))
            records.append({"step": step, "loss": noisy, "task": task, "split": "train"})
            if step % 140 == 0:
                records.append({"step": step, "loss": trend + 0.05, "task": task, "split": "val"})
    return records


def fake_results() -> DemoResults:
    """Invented results, the same at every call."""
    rng = np.random.default_rng(0)
    umap, umap_type, umap_generated = _umap(rng)
    log_rank = np.log10(1 + rng.integers(0, 1800, 12000))
    expression = np.maximum(2.3141 - 0.7123 * log_rank + rng.normal(0, 0.12, 12000), 0.05)
    return DemoResults(
        metrics=demo_metrics(),
        confusion=_confusion(rng),
        umap=umap,
        umap_type=umap_type,
        umap_generated=umap_generated,
        reliability=[(0.41, 0.5, 6), (0.63, 0.57, 14), (0.82, 0.84, 25), (0.99, 0.994, 343)],
        rank_points=(log_rank, expression),
        losses=_losses(rng),
        nearest={"generated": rng.gamma(20, 0.34, 776), "real": rng.gamma(18, 0.36, 388)},
        examples=[
            {
                "cell_type": name,
                "generated": [g for j, g in enumerate(genes.split()) if (j + i) % 5] + ["MALAT1"],
                "real": genes.split(),
            }
            for i, (name, (_, genes)) in enumerate(TYPES.items())
        ],
        metric_notes=NOTES,
        recipe={"data": "pancreas", "model": {"preset": "mini", "layers": 2}, "top_k": 128},
    )


_RESULTS = fake_results()


@pytest.fixture
def results() -> DemoResults:
    """Invented results; `metrics` is a copy that a test may change."""
    return replace(_RESULTS, metrics=copy.deepcopy(_RESULTS.metrics))


@pytest.fixture(scope="session")
def whole_page() -> str:
    """The report of the unchanged results; drawing its figures takes a second."""
    return render(_RESULTS)


@pytest.fixture
def words_only(results: DemoResults) -> DemoResults:
    """Invented results without what figures are drawn from, for tests of words and tables."""
    return replace(
        results, confusion=None, umap=None, reliability=None, rank_points=None, losses=None
    )


if __name__ == "__main__":
    write_report(sys.argv[1], fake_results())
