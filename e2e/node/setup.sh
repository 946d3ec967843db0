#!/bin/sh
# Makes a node of the namespaces (net, uts, mount) it runs in. Takes the node's name, a directory
# in which it shares its files, and its control groups. All that programs write elsewhere in /run,
# /var/lib and /var/log stands in memory of the node's own and vanishes with it.
set -e
echo "$1" > /proc/sys/kernel/hostname
shared=$2
shift 2
for group; do echo $$ > "$group/cgroup.procs"; done

mount -t tmpfs -o mode=755 node /run
mkdir /run/lock /run/shared /run/cgroup
mount --bind "$shared" /run/shared
# What the machine has there is still to be seen.
for name in lib log; do
    mkdir -p "/run/node/$name" "/run/node/$name.work"
    layers="lowerdir=/var/$name,upperdir=/run/node/$name,workdir=/run/node/$name.work"
    mount -t overlay -o "$layers" node "/var/$name" ||
        { echo "containers need overlay file systems, which this kernel does not mount here"; exit 1; }
done
mount --move /run/shared "$shared"
# An overlay cannot carry the containers' overlays.
for name in containerd kubelet; do
    mkdir -p "/var/lib/$name"
    mount -t tmpfs -o mode=755 node "/var/lib/$name"
done

# /sys shows the links of the network namespace in which it was mounted.
mount --rbind /sys/fs/cgroup /run/cgroup
mount -t sysfs sysfs /sys
mount --move /run/cgroup /sys/fs/cgroup
rmdir /run/cgroup /run/shared

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
