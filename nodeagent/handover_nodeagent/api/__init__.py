"""The Kubernetes API: found, asked, watched, and its objects turned into values."""
