"""The bundled prior's weights and their model card."""
