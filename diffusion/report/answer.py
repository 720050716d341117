"""The answer to a question by numbers, as sections of a page."""

from diffusion.findings.verdict import Verdict
from diffusion.report.page import Section, escaped, listed, shell


def verdict_sections(found: Verdict) -> list[Section]:
    answer = [f"**{escaped(found.headline)}**" if found.headline else "", listed(found.findings.values())]
    if found.limits:
        answer += [found.about, "What these numbers do not show:", listed(found.limits)]
    step = [found.step.words, shell(found.step.line)] if found.step.words else []
    return [Section(found.question, answer), Section("Next step", step)]
