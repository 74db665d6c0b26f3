"""A surrogate decides as the classifier does, where it matters, and says how well."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from carma import BlackBoxClassifier, Classifier
from carma.benchmarks import Benchmark
from carma.classifiers.network import NetworkClassifier
from carma.constraints import PlanLimits
from carma.recourse.surrogate import Fidelity, Surrogate


def rejected(classifier: Classifier, x: Tensor) -> Tensor:
    return x[classifier.probability(x) < classifier.threshold]


def fitted(chain: Benchmark, classifier: Classifier, seed: int = 0) -> Surrogate:
    limits = PlanLimits(chain.encoding, chain.scm.statistics_)
    x = rejected(classifier, chain.encoded("recourse"))
    parts = (classifier, chain.scm, chain.cost, limits, x)
    return Surrogate.of(*parts, seed=seed, progress=False)


def boxed(classifier: NetworkClassifier) -> BlackBoxClassifier:
    encode = classifier.encoding.encode
    return BlackBoxClassifier(
        classifier.schema, lambda rows: classifier.probability(encode(rows)).numpy()
    )


@pytest.fixture(scope="module")
def surrogate(chain: Benchmark, chain_classifier: NetworkClassifier) -> Surrogate:
    return fitted(chain, boxed(chain_classifier))


def test_a_linear_classifier_is_learned(
    chain: Benchmark, chain_classifier: NetworkClassifier, surrogate: Surrogate
) -> None:
    assert surrogate.fidelity.agreement > 98
    assert surrogate.fidelity.r2 > 0.99
    assert surrogate.fidelity.n_rows > 1000
    x = chain.encoded("recourse", "test")
    close = chain_classifier.logit(x).abs() < 2
    error = (surrogate.logit(x) - chain_classifier.logit(x))[close]
    assert float(error.square().mean().sqrt()) < 0.1


def test_it_has_slopes(
    chain: Benchmark, chain_classifier: NetworkClassifier, surrogate: Surrogate
) -> None:
    x = chain.encoded("recourse", "test")[:100].requires_grad_()
    (slope,) = torch.autograd.grad(surrogate.logit(x).sum(), x)
    weights = chain_classifier.linear_weights
    assert weights is not None
    torch.testing.assert_close(slope.mean(dim=0), weights[0], rtol=0.1, atol=0.1)


def test_fidelity_is_measured_on_people_it_was_not_fitted_on(chain: Benchmark) -> None:
    """Of scores that say nothing, nothing can be learned, and it must say so."""

    def noise(rows: pd.DataFrame) -> Any:
        text = [str(hash(tuple(row)) % 1000) for row in rows.to_numpy().round(9).tolist()]
        return np.array([int(t) for t in text]) / 1000

    fidelity = fitted(chain, BlackBoxClassifier(chain.schema, noise)).fidelity
    assert fidelity.r2 < 0.1
    assert fidelity.agreement < 75


def test_rows_without_a_score_are_left_out(
    chain: Benchmark, chain_classifier: NetworkClassifier
) -> None:
    encode = chain_classifier.encoding.encode

    def gaps(rows: pd.DataFrame) -> Any:
        known = chain_classifier.probability(encode(rows)).numpy()
        return np.where(rows.iloc[:, 1] > 1, np.nan, known)

    surrogate = fitted(chain, BlackBoxClassifier(chain.schema, gaps))
    assert surrogate.fidelity.agreement > 95
    assert torch.isfinite(surrogate.logit(chain.encoded("recourse"))).all()


def test_the_same_seed_gives_the_same_surrogate(
    chain: Benchmark, chain_classifier: NetworkClassifier, surrogate: Surrogate
) -> None:
    state = torch.get_rng_state()
    again = fitted(chain, boxed(chain_classifier))
    assert torch.equal(torch.get_rng_state(), state)
    assert again.state().fingerprint() == surrogate.state().fingerprint()


def test_it_can_be_stored(chain: Benchmark, surrogate: Surrogate) -> None:
    again = Surrogate.from_state(chain.schema, surrogate.state())
    x = chain.encoded("recourse", "test")
    assert torch.equal(again.logit(x), surrogate.logit(x))
    assert again.fidelity == surrogate.fidelity


def test_fidelity_in_words() -> None:
    text = str(Fidelity(1200, 97.25, 0.9512))
    assert "97.2 % of 1,200 held-out rows" in text
    assert "0.951" in text
    assert Fidelity(1200, 97.25, 0.9512).to_dict()["agreement"] == 97.25
