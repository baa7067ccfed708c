"""What operators see of the gateway: logs, the audit log and metrics."""
