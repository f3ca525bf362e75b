"""What talks to model servers, pickers, files and Kubernetes."""

__all__: list[str] = []
