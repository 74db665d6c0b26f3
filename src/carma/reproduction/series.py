"""How methods are called and coloured, in every table and picture alike."""

from __future__ import annotations

__all__ = ["COLOURS", "LABELS", "coloured"]

LABELS = {
    "grid-true": "oracle M*",
    "exact-true": "optimum",
    "dice-vae-published": "DiCE-VAE, Table 4",
    "dice-vae": "DiCE-VAE",
    "carma-published": "CARMA as published",
    "carma-single": "CARMA, one pass",
    "carma": "CARMA",
}
# Okabe & Ito's.
COLOURS = {
    "grid-true": "#E69F00",
    "exact-true": "#555555",
    "dice-vae-published": "#CC79A7",
    "dice-vae": "#D55E00",
    "carma-published": "#0072B2",
    "carma-single": "#56B4E9",
    "carma": "#009E73",
}


def coloured(methods: tuple[str, ...]) -> dict[str, str]:
    """Label to colour of some methods, in their order."""
    return {LABELS[method]: COLOURS[method] for method in methods}
