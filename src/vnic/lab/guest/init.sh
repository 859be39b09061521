#!/bin/busybox sh
# The guest's only program: loads the modules, brings the NICs up, then runs what the host sends over a serial line.
# The protocol is that of vnic/guest/console.py: "TOKEN\n", the lines of a script, "TOKEN\n"; the answer is the
# script's output, "\nTOKEN STATUS\n". When the host goes away the line ends, and the guest powers itself off.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t tmpfs tmp /tmp
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin HOME=/tmp

# VNIC_TTY comes from the kernel's command line.
exec <"/dev/$VNIC_TTY" >"/dev/$VNIC_TTY" 2>&1
stty raw -echo

for module in /modules/*.ko; do
  insmod "$module" || echo "insmod $module: status $?"
done
# Debian's kernel has fq_codel, which drops frames that have waited for 100 ms; here they wait as long as they must.
qdisc=/proc/sys/net/core/default_qdisc
[ -e "$qdisc" ] && echo pfifo_fast >"$qdisc"
ip link set lo up
for interface in /sys/class/net/eth*; do
  [ -e "$interface" ] || continue
  # An IPv6 address is of use at once, without the second that duplicate address detection takes.
  dad=/proc/sys/net/ipv6/conf/${interface##*/}/accept_dad
  [ -e "$dad" ] && echo 0 >"$dad"
  ip link set "${interface##*/}" up
done

. /words

# VNIC_ROOT: the guest's root is the folder of the host that hostfs has (`hostfs=`), with /files in front of it. What is
# written stays in memory. Busybox helps out where the folder has no such program.
make_root() {
  mkdir /lower /upper /merged &&
    mount -t hostfs -o ro none /lower &&
    mount -t tmpfs upper /upper && mkdir /upper/new /upper/work &&
    mount -t overlay -o "lowerdir=/files:/lower,upperdir=/upper/new,workdir=/upper/work" overlay /merged || return
  mkdir -p /merged/dev /merged/proc /merged/sys /merged/tmp /merged/run || return
  mount -t proc proc /merged/proc && mount -t sysfs sys /merged/sys && mount -t devtmpfs dev /merged/dev &&
    mount -t tmpfs -o mode=1777 tmp /merged/tmp && mount -t tmpfs -o mode=755 run /merged/run || return
  mkdir -p /dev/pts /dev/shm /merged/run/lock
  mount -t devpts devpts /merged/dev/pts
  mount -t tmpfs -o mode=1777 shm /merged/dev/shm
  ln -s /proc/self/fd /dev/fd

  own=/merged/run/vnic
  mkdir -p $own/bin
  cp /bin/busybox /words $own
  for word in wait_carrier start_shell; do
    printf '#!/run/vnic/busybox sh\n. /run/vnic/words\n%s "$@"\n' $word >$own/bin/$word
    chmod +x $own/bin/$word
  done
  chroot /merged /run/vnic/busybox --install -s /run/vnic/bin || return
  export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/vnic/bin HOME=/root
  /bin/busybox chroot /merged /bin/sh -c : || echo "the root has no /bin/sh that runs"
}

run() {
  if [ "$VNIC_ROOT" ]; then
    exec /bin/busybox chroot /merged /bin/sh -c "$1"
  fi
  eval "$1"
}

[ -z "$VNIC_ROOT" ] || make_root || echo "the root cannot be made: status $?"

newline='
'
echo READY
while IFS= read -r token; do
  script=
  while IFS= read -r line && [ "$line" != "$token" ]; do
    script="$script$line$newline"
  done
  (run "$script") </dev/null 2>&1
  printf '\n%s %d\n' "$token" $?
done
poweroff -f
