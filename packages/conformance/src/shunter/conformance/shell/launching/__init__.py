"""Model servers that the exam starts itself: as a process, a container or a pod."""

__all__: list[str] = []
