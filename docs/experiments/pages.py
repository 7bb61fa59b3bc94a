"""Write tables and figures of the pages from the results, and the index: `python docs/experiments/pages.py`.

The part of a page between its two markers comes from docs/results/experiments.jsonl, and that of the index from the
pages; the rest is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import RESULTS
from kinds import KINDS
from results import read_results
from tables import Comparison, Curve, Law, Ratios, Record, Variation

HERE = Path(__file__).parent
BEGIN, END = "<!-- results: written by pages.py -->", "<!-- end of results -->"

PUBLISHED = "preset=published"
EVERY_STEP = "search_rate=inf"
PAPER_STEP_SIZES: Mapping[float, float] = {4: 1.379e-5, 8: 1.878e-5, 16: 2.674e-5, 32: 3.595e-5}


def against_stock(task: str, where: Mapping[str, Any], adam: Sequence[float], sgd: Sequence[float]) -> list[Curve]:
    """Return the lines of `adam_sls` and `sgd_sls`, and of AdamW and SGD at several learning rates."""
    kinds: list[tuple[str, str, str | None, float]] = [("adamw_torch", "AdamW", None, rate) for rate in adam]
    kinds += [("sgd", "SGD, momentum 0.9,", "momentum=0.9", rate) for rate in sgd]
    return [
        Curve("adam_sls", task, {**where, "optim": "adam_sls", "optim_args": None}),
        Curve("sgd_sls", task, {**where, "optim": "sgd_sls", "optim_args": None}),
        *(
            Curve(f"{label} {rate:g}", task, {**where, "optim": optim, "optim_args": extra, "learning_rate": rate})
            for optim, label, extra, rate in kinds
        ),
    ]


def with_results(
    page: Comparison | Law | Ratios | Variation, text: str, records: Sequence[Record], figure: Path
) -> str:
    """Return the text of a page with its results written anew, and draw its figure.

    Raises:
        ValueError: the page has no markers.
    """
    before, after = _around_markers(page.name, text)
    return f"{before}\n\n{page.results(records, figure)}\n\n{after}"


def with_index(text: str) -> str:
    """Return the text of the index with the outcome and the figure of each page written anew.

    Raises:
        ValueError: the index has no markers, or a page has no title or no outcome.
    """
    entries = [_entry(page.name, (HERE / f"{page.name}.md").read_text(encoding="utf-8")) for page in PAGES]
    contents = "\n".join(["```{toctree}", ":hidden:", "", *(page.name for page in PAGES), "```"])
    before, after = _around_markers("index", text)
    return "\n\n".join([before, *entries, contents, after])


def _entry(name: str, text: str) -> str:
    """Return the entry of a page in the index: its title, the first sentence of its outcome, and its figure."""
    title = re.match(r"# (.+)\n", text)
    outcome = re.search(r"^## Outcome\n\n(.+?\.)\s", text, flags=re.MULTILINE | re.DOTALL)
    if title is None or outcome is None:
        raise ValueError(f"The page {name}.md needs a title and a section '## Outcome' that begins with a sentence.")
    return f"## [{title[1]}]({name}.md)\n\n{' '.join(outcome[1].split())}\n\n[![{title[1]}]({name}.png)]({name}.md)"


def _around_markers(name: str, text: str) -> tuple[str, str]:
    """Return the text up to the first marker and from the second, both included."""
    if BEGIN not in text or END not in text:
        raise ValueError(f"The page {name}.md has no line {BEGIN!r} and {END!r} for its results.")
    return text.split(BEGIN)[0] + BEGIN, END + text.split(END)[1]


_MNIST = {"width": 256, "batch_size": 128, "max_steps": -1, "label_noise": 0.0}
_LANGUAGE = {"width": 128, "batch_size": 8, "lr_scheduler_type": "linear"}
_ADAMS_OWN = f"{EVERY_STEP},betas=0.9/0.999"
_LAST_STEP = "look_back=false,init_step_size=0.1,shrink=0.5,lower_bound=0,c=0.5,smoothing=0,growth={}," + _ADAMS_OWN
_ARMIJO, _GROWING = _LAST_STEP.format("1.0013872557"), _LAST_STEP.format("1.1")
_SMOOTHED = "look_back=false,init_step_size=0.1,growth=1.1,shrink=0.5,lower_bound=0,c=0.3"
_RULES: dict[str, tuple[str, str | None]] = {"as published": ("adam_sls", PUBLISHED), "adam_sls": ("adam_sls", None)}
_GRADIENT: dict[str, tuple[str, str | None]] = {"sgd_sls, every step": ("sgd_sls", EVERY_STEP)}


def _constant(task: str, name: str, rules: Mapping[str, tuple[str, str | None]], **where: Any) -> list[Curve]:
    constant = {"lr_scheduler_type": "constant", "max_grad_norm": 0, **where}
    return [
        Curve(f"{name}, {rule}", task, {**constant, "optim": optim, "optim_args": text})
        for rule, (optim, text) in rules.items()
    ]


def _smoothed(task: str, name: str, **where: Any) -> list[Curve]:
    return [
        Curve(
            f"{name}, smoothing {smoothing}",
            task,
            {**where, "optim_args": f"{_SMOOTHED},smoothing={smoothing},{_ADAMS_OWN}"},
        )
        for smoothing in ("0", "0.9", "0.99")
    ]


_ANY_KIND: dict[str, Any] = {"batch_size": 32, "max_steps": 200, "lr_scheduler_type": "linear"}

PAGES: tuple[Comparison | Law | Ratios | Variation, ...] = (
    Comparison("mnist", against_stock("mnist", _MNIST, (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), (0.01, 0.03, 0.1, 0.3))),
    Comparison("vision", against_stock("cifar10", {"width": 16}, (3e-4, 1e-3, 3e-3), (0.03, 0.1))),
    Comparison("language", against_stock("language", _LANGUAGE, (3e-4, 1e-3, 3e-3), (0.1, 0.3)), "loss"),
    Comparison("smoothing", _smoothed("language", "GPT-2, batch 4", batch_size=4), "loss"),
    Comparison(
        "plasls",
        [
            Curve(label, "language", {**_LANGUAGE, "optim": optim, "optim_args": text})
            for label, optim, text in (
                ("each layer, growth 10 %", "plasls", "blocks=4,growth=1.1"),
                ("all layers, growth 10 %", "adam_sls", _GROWING),
                ("each layer, growth 0.14 %", "plasls", "blocks=4"),
                ("all layers, growth 0.14 %", "adam_sls", _ARMIJO),
                ("adam_sls", "adam_sls", None),
            )
        ],
        "loss",
    ),
    Variation(
        "robustness",
        [
            Curve(label, "mnist", {**_MNIST, "optim": optim, "optim_args": None, "learning_rate": rate})
            for label, optim, rate in (
                ("adam_sls", "adam_sls", None),
                *((f"AdamW {rate:g}", "adamw_torch", rate) for rate in (1e-3, 3e-3, 1e-2)),
            )
        ],
        {"batch_size": (32, 128, 512), "width": (64, 256, 1024), "label_noise": (0.0, 0.2, 0.4)},
    ),
    Law(
        "batch_size",
        [
            *_constant("mnli", "MiniLM on MNLI", _RULES),
            *_constant("mnist", "perceptron on MNIST", {**_RULES, **_GRADIENT}, width=256, max_steps=200),
        ],
        "batch_size",
        "batch size",
        {"BERT-base on MNLI, the talk": PAPER_STEP_SIZES},
    ),
    Law(
        "network_size",
        [
            *_constant("mnist", "perceptron on MNIST", {**_RULES, **_GRADIENT}, batch_size=128, max_steps=100),
            *_constant("language", "GPT-2 on text", _RULES, batch_size=8),
        ],
        "parameters",
        "parameters",
    ),
    Ratios(
        "kinds",
        [
            Curve(label, kind, {**_ANY_KIND, "optim": optim, "optim_args": None, "learning_rate": rate})
            for kind in KINDS
            for label, optim, rate in (
                ("adam_sls", "adam_sls", None),
                *((f"AdamW {rate:g}", "adamw_torch", rate) for rate in (3e-4, 1e-3, 3e-3, 1e-2)),
            )
        ],
    ),
)


def main() -> None:
    """Write the pages that have results, and the index."""
    records = read_results(RESULTS)
    for page in PAGES:
        if any(line.select(records) for line in page.lines):
            path = HERE / f"{page.name}.md"
            text = with_results(page, path.read_text(encoding="utf-8"), records, HERE / f"{page.name}.png")
            path.write_text(text, encoding="utf-8")
            print(f"{path.name} and {page.name}.png")
    index = HERE / "index.md"
    index.write_text(with_index(index.read_text(encoding="utf-8")), encoding="utf-8")
    print(index.name)


if __name__ == "__main__":
    main()
