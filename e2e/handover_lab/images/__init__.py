"""The two container images and their bills of materials, made without a registry."""
