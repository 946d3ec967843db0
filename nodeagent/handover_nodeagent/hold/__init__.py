"""What a guest that is being moved did not take while it was paused is held, and sent again.

A packet socket gives a frame as the kernel would have given it to the guest: ``virtio`` reads what
was left to a device, and ``segments`` does that, so that plain IP packets can go into a tunnel.
"""
