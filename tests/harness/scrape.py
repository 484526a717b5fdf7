"""What a daemon's metrics listener says."""

from collections.abc import Mapping
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families


def scrape(port: int) -> "Figures":
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        return Figures(answer.read().decode())


class Figures:
    """Samples by name and labels."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of all samples of that name with these labels."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == name and _holds(sample.labels, labels)
        )


def _holds(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return wanted.items() <= labels.items()
