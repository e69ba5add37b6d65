"""What runs the flows on work pools: automations of the Prefect server."""
