#!/bin/sh
# Makes a node of the namespaces (net, uts, mount) it runs in: NAME, then its control groups.
# All that programs write here goes to memory of the node's own and vanishes with it.
set -e
echo "$1" > /proc/sys/kernel/hostname
shift
for group; do echo $$ > "$group/cgroup.procs"; done

# /run is the node's own; so are /var/lib and /var/log, which still show what the machine has.
mount -t tmpfs -o mode=755 node /run
mkdir /run/lock /run/cgroup
for name in lib log; do
    mkdir -p "/run/node/$name" "/run/node/$name.work"
    layers="lowerdir=/var/$name,upperdir=/run/node/$name,workdir=/run/node/$name.work"
    mount -t overlay -o "$layers" node "/var/$name"
done
# An overlay cannot carry the containers' overlays.
for name in containerd kubelet; do
    mkdir -p "/var/lib/$name"
    mount -t tmpfs -o mode=755 node "/var/lib/$name"
done

# /sys shows the links of the network namespace in which it was mounted.
mount --rbind /sys/fs/cgroup /run/cgroup
mount -t sysfs sysfs /sys
mount --move /run/cgroup /sys/fs/cgroup
rmdir /run/cgroup

# A kubelet sets these for the whole machine. Here it finds them as it likes them, and the machine
# keeps its own.
while read -r name value; do
    file="/run/node/$(basename "$name")"
    echo "$value" > "$file"
    mount --bind "$file" "/proc/sys/$name"
done << END
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
END

# What a pod mounts, others see: projected tokens, for instance.
mount --make-rshared /
