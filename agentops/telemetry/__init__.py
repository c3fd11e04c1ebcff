"""What a role says about itself: JSON logs, Prometheus metrics, OpenTelemetry traces."""
