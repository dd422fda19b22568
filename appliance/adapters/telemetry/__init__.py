"""Telemetry: ECS log lines, Prometheus metrics, OpenTelemetry spans."""
