"""What people and Prometheus can ask the operator's process: metrics, health, logs."""
