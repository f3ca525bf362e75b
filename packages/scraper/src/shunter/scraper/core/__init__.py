"""What the scraper knows without looking: pure functions and machines; clock and dice are arguments."""

__all__: list[str] = []
