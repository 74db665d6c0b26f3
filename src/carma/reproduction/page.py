"""One HTML page with every claim, number and picture (needs the extra ``reproduce``)."""

from __future__ import annotations

from importlib.resources import files

import jinja2

from carma.reproduction.section import Section

__all__ = ["page"]


def page(sections: list[Section], facts: dict[str, str]) -> str:
    """The page, whole: no other file and no network is needed to read it.

    Args:
        sections: In order.
        facts: Seeds, machine, versions and the like, by name.
    """
    source = files("carma.reproduction").joinpath("page.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    n_claims = sum(len(section.claims) for section in sections)
    n_holding = sum(claim.holds for section in sections for claim in section.claims)
    return environment.from_string(source).render(
        sections=sections, facts=facts, n_claims=n_claims, n_holding=n_holding
    )
