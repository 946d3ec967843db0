"""The KubeVirt adapter: pods, VMIs and VMIMs become WorkloadEndpoints and LiveMigrations.

parse.py reads KubeVirt's objects into model.py's values, adapter.py finds the VMI that one concerns
and vmi.py decides what is desired for it (desired.py); how a VMIM ended is said in vmim_outcome.py.
observed.py keeps our own objects, diff.py compares and manifests.py composes. controller.py is the
loop: lookups.py asks for what no watch has shown, owned.py writes.
"""
