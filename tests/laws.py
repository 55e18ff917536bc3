"""How many examples a law is tried on: few and the same ones in every run, many new ones with ``--soak``."""

from hypothesis import HealthCheck, settings

#: So many times as many with ``--soak``.
_SOAK = 20


def examples(few: int, **more: object) -> settings:
    """Settings of a property; ``more`` as for `hypothesis.settings`."""
    soak = not settings.default.derandomize  # see tests/conftest.py
    return settings(
        max_examples=few * (_SOAK if soak else 1),
        suppress_health_check=list(HealthCheck),
        **more,  # type: ignore[arg-type]
    )
