"""The generated files of chart and documentation."""
