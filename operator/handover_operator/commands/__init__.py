"""What a person or the chart's hooks run beside the operator."""
