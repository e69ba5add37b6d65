"""What happens in which order: thin flows over the stages in ``tasks``."""
