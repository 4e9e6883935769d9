"""Prints how far from the originals the parity tests came, beside their limits."""

from golden import cases


def pytest_terminal_summary(terminalreporter):
    if not cases.measured:
        return
    terminalreporter.section("parity: worst error of each quantity (limit)")
    for quantity, worst in sorted(cases.measured.items()):
        terminalreporter.line(f"{quantity:24} {worst:.1e}  ({cases.limit(quantity):.0e})")
