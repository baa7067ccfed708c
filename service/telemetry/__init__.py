"""What the gateway tells its operators: logs and metrics."""
