"""Where the scraper touches the world: sockets, files, clocks and the snapshot."""

__all__: list[str] = []
