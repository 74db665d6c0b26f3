"""Train a classifier here, as the paper does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from carma.classifiers.network import Input, NetworkClassifier
from carma.schema import Schema
from carma.state import one_thread
from carma.table import Encoding, Statistics, labels
from carma.training import TrainingSettings, check_widths, split_rows, train

__all__ = ["ClassifierSettings", "fit_classifier"]


@dataclass(frozen=True)
class ClassifierSettings:
    """Settings of a classifier trained here.

    Args:
        hidden: Widths of ReLU layers; none gives logistic regression. The paper has 16 for
            its non-linear sets and 32, 32 for Loan.
        training: How it is fitted.

    Raises:
        SettingsError: A value is out of range.
    """

    hidden: tuple[int, ...] = (32, 32)
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(
            epochs=200, batch_size=256, learning_rate=5e-3, patience=40
        )
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        check_widths("ClassifierSettings", "hidden", self.hidden)


@one_thread()
def fit_classifier(
    schema: Schema,
    table: Any,
    settings: ClassifierSettings | None = None,
    *,
    progress: bool | None = None,
) -> NetworkClassifier:
    """Fit logistic regression or an MLP by cross-entropy on standardised columns.

    Args:
        schema: Must name ``outcome`` and ``favourable``.
        table: DataFrame in original units with the outcome column. Rows with gaps are left out.
        settings: Layers and training.
        progress: See ``track``.

    Returns:
        A classifier on model space, the standardisation folded into its first layer.

    Raises:
        ClassifierError: A feature has ``missing = "pass"``: a network takes no gaps.
        TableError: The table does not fit the schema, has gaps in more than half of its rows,
            or holds one class only.

    Example:
        >>> from carma.benchmarks import load
        >>> data = load("chain-lin", rows=300)
        >>> quick = ClassifierSettings(hidden=(), training=TrainingSettings(epochs=2))
        >>> classifier = fit_classifier(data.schema, data.frame("classifier"), quick)
        >>> classifier.probability(data.encoded("recourse")[:2]).shape
        torch.Size([2])
    """
    settings = settings or ClassifierSettings()
    NetworkClassifier.check_gaps(schema)
    encoding = Encoding(schema)
    x = encoding.encode(table)
    is_complete = encoding.complete(x)
    x, y = x[is_complete], labels(schema, table)[is_complete].float()
    statistics = Statistics.of(x, encoding)
    scaled = ((x - statistics.mean) / statistics.std).float()
    rows, held_out = split_rows(
        len(x), settings.training.validation_fraction, settings.training.seed
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.training.seed)
        network = _mlp(x.shape[1], settings.hidden)
    entropy = nn.functional.binary_cross_entropy_with_logits

    def loss(batch: Tensor) -> Tensor:
        chosen = rows[batch]
        return entropy(network(scaled[chosen]).squeeze(1), y[chosen])

    def score() -> float:
        return float(entropy(network(scaled[held_out]).squeeze(1), y[held_out]))

    train(
        network,
        len(rows),
        loss,
        score,
        settings.training,
        description="classifier",
        progress=progress,
    )
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    weights = [layer.weight.detach().double() for layer in layers]
    biases = [layer.bias.detach().double() for layer in layers]
    biases[0] = biases[0] - weights[0] @ (statistics.mean / statistics.std)
    weights[0] = weights[0] / statistics.std
    inputs = [Input(i) for i in range(encoding.n_columns)]
    return NetworkClassifier(schema, inputs, weights, biases, "relu")


def _mlp(n_in: int, hidden: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(n_in, width), nn.ReLU()]
        n_in = width
    return nn.Sequential(*layers, nn.Linear(n_in, 1))
