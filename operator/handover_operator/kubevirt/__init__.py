"""The KubeVirt adapter: pods, VMIs and VMIMs become WorkloadEndpoints and LiveMigrations.

gather.py reads, machine.py and adapter.py decide, objects.py composes, reconcile.py writes.
"""
